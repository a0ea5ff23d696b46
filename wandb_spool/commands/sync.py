"""`wandb-spool sync`: one pass over what is due."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from wandb_spool.parameters import JsonOption, LogJsonOption, SpoolOption


class Which(str, Enum):
    finished = "finished"


def command(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="Default: all that is due.")] = None,
    spool: SpoolOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is deferred, whatever its not-before time.")
    ] = False,
    only_which: Annotated[
        Which | None, typer.Option("--only", help="finished: leave runs that failed, were killed or told nothing.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent, and where.")] = False,
    patience_s: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", min=0.0, help="How long to wait for data shown late.")
    ] = 20.0,
    json: JsonOption = False,
    log_json: LogJsonOption = False,
    light: Annotated[bool, typer.Option("--light", hidden=True, help="Leave heavy runs to the daemon.")] = False,
) -> None:
    """Deliver what is due: push with `wandb sync`, read the server back, and only then call it delivered."""
    import os

    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import emit, emit_json
    from wandb_spool.speaking import speaking
    from wandb_spool.spool.errors import SpoolError
    from wandb_spool.survey import Survey
    from wandb_spool.syncer.notifying import Notifier
    from wandb_spool.syncer.service import Options, PassResult, sync_once
    from wandb_spool.syncer.stopping import Stop
    from wandb_spool.syncing import as_json, configuration, require_wandb, summarise

    opened = open_spool(spool)
    settings = configuration()
    require_wandb()
    only = frozenset(found.entry.name for found in find_runs(Survey.of(opened), runs)) if runs else None
    if only_which is Which.finished:
        from wandb_spool.finished import finished

        done = finished(Survey.of(opened), settings.limits, everything=everything or bool(runs))
        only = done if only is None else only & done
    options = Options(only=only, everything=everything, dry_run=dry_run, patience_s=patience_s, light_only=light)
    stop = Stop()
    stop.listen()
    with speaking(log_json=log_json) as speaker:
        notifier = Notifier(opened, settings, os.environ, speaker.tell, stopping=stop)
        try:
            result = sync_once(
                opened, settings, os.environ, options, tell=speaker.tell, show=speaker.show, stopping=stop
            )
        except SpoolError as error:
            notifier.after_pass(PassResult.of_failure(error))
            raise
        if not dry_run:
            notifier.after_pass(result)
    if json:
        emit_json(as_json(result))
    elif dry_run:
        for entry, target in result.planned:
            emit(f"{entry} → {target}")
        emit(f"{len(result.planned)} would be sent next; {result.waiting} wait; nothing was sent")
    else:
        summarise(result)
    raise typer.Exit(stop.exit_code or result.exit_code)
