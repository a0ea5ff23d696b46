"""`wandb-spool daemon`: the same as `sync`, for ever."""

from __future__ import annotations

from typing import Annotated

import typer

from wandb_spool.parameters import SpoolOption


def command(
    spool: SpoolOption = None,
    scan_s: Annotated[
        float, typer.Option("--scan", metavar="SECONDS", min=0.1, help="Full scan at least this often.")
    ] = 30.0,
    cpu_limit_s: Annotated[
        float | None,
        typer.Option("--cpu-limit", metavar="SECONDS", min=1.0, help="Start anew after so much processor time."),
    ] = None,
    patience_s: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", min=0.0, help="How long to wait for data shown late.")
    ] = 20.0,
) -> None:
    """Deliver runs as they come, until told to stop (SIGTERM: cleanly, within ten seconds)."""
    import os
    import sys

    from wandb_spool.locate import open_spool
    from wandb_spool.syncer.daemon import DaemonOptions, run_daemon
    from wandb_spool.syncer.service import Options
    from wandb_spool.syncing import configuration, require_wandb, tell

    opened = open_spool(spool)
    settings = configuration()
    require_wandb()
    code = run_daemon(
        opened,
        settings,
        os.environ,
        Options(patience_s=patience_s),
        DaemonOptions(scan_s=scan_s, cpu_limit_s=cpu_limit_s),
        tell=tell,
        arguments=["-m", "wandb_spool", *sys.argv[1:]],
    )
    raise typer.Exit(code)
