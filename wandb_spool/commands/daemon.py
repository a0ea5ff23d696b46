"""`wandb-spool daemon`: the same as `sync`, for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import LogJsonOption, SpoolOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_spool.spool.queue import Spool
    from wandb_spool.syncer.metrics import Totals
    from wandb_spool.syncer.service import PassResult


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
    log_json: LogJsonOption = False,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="FILE", help="Write a Prometheus text file (*.prom) after each pass."),
    ] = None,
) -> None:
    """Deliver runs as they come, until told to stop (SIGTERM: cleanly, within ten seconds)."""
    import os
    import sys

    from wandb_spool.locate import open_spool
    from wandb_spool.speaking import speaking
    from wandb_spool.syncer.daemon import DaemonOptions, run_daemon
    from wandb_spool.syncer.lanes import Lanes
    from wandb_spool.syncer.meter import Moving
    from wandb_spool.syncer.metrics import Totals
    from wandb_spool.syncer.notifying import Notifier
    from wandb_spool.syncer.service import Options
    from wandb_spool.syncer.stopping import Stop
    from wandb_spool.syncing import Newest, configuration, require_wandb

    opened = open_spool(spool)
    settings = configuration()
    require_wandb()
    stop = Stop()
    with speaking(log_json=log_json) as speaker:
        totals = Totals()
        measure = _measure(metrics, totals, opened, speaker.tell)
        notifier = Notifier(opened, settings, os.environ, speaker.tell, stopping=stop)
        newest = Newest(settings, speaker.tell)
        words = ["-m", "wandb_spool", "sync", "--light", "--spool", str(opened.root), "--patience", str(patience_s)]
        words += ["--log-json"] if log_json else []
        lanes = Lanes(opened, words, settings.limits.pushes, count=totals.add_helpers)

        def after_pass(result: PassResult) -> None:
            lanes.reap()
            measure(result)
            notifier.after_pass(result, newest.configuration)

        def show(moving: Moving) -> None:
            speaker.show(moving)
            lanes.look(moving)

        try:
            code = run_daemon(
                opened,
                newest,
                os.environ,
                Options(patience_s=patience_s),
                DaemonOptions(scan_s=scan_s, cpu_limit_s=cpu_limit_s),
                tell=speaker.tell,
                show=show,
                arguments=["-m", "wandb_spool", *sys.argv[1:]],
                after_pass=after_pass,
                stop=stop,
            )
        finally:
            lanes.close()
    raise typer.Exit(code)


def _measure(
    path: Path | None, totals: Totals, spool: Spool, told: Callable[[str], None]
) -> Callable[[PassResult], None]:
    """Writes the metrics after a pass; what can't be written is told, and the daemon goes on."""
    import time

    from wandb_spool.spool.errors import SpoolError, UsageError
    from wandb_spool.syncer.metrics import write_metrics

    if path is None:
        return lambda result: None
    if not path.parent.is_dir():
        raise UsageError("there is no directory for the metrics", path=path.parent)

    def measure(result: PassResult) -> None:
        totals.add(result)
        try:
            write_metrics(path, spool, totals, result, time.time())
        except (SpoolError, OSError) as error:
            told(str(error))

    return measure
