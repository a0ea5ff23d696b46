"""`wandb-spool replay`: deliver again, on purpose."""

from __future__ import annotations

from typing import Annotated

import typer

from wandb_spool.parameters import JsonOption, RunsArgument, SpoolOption


def command(
    runs: RunsArgument,
    spool: SpoolOption = None,
    entity: Annotated[str | None, typer.Option("--entity", help="Another entity.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="Another project.")] = None,
    run_id: Annotated[str | None, typer.Option("--id", help="Another run id (one run only).")] = None,
    destination: Annotated[
        str | None, typer.Option("--destination", metavar="NAME", help="Of the configuration.")
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Only print the plain `wandb sync` command for each.")
    ] = False,
    no_sync: Annotated[bool, typer.Option("--no-sync", help="Only put it in line; the next pass sends it.")] = False,
    json: JsonOption = False,
) -> None:
    """Send runs again, or elsewhere. What was delivered before, and its receipt, stay as they are."""
    import os

    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import emit, emit_json
    from wandb_spool.speaking import speaking
    from wandb_spool.spool.entry import Replay
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.survey import Survey
    from wandb_spool.syncer.replaying import plain_command, replay
    from wandb_spool.syncer.service import Options, sync_once
    from wandb_spool.syncer.stopping import Stop
    from wandb_spool.syncing import as_json, configuration, require_wandb, summarise

    opened = open_spool(spool)
    found = [item for item in find_runs(Survey.of(opened), runs) if item.entry.replay is None]
    if not found:
        raise UsageError("these are replays themselves; name the run")
    if run_id is not None and len({item.entry.run_id for item in found}) > 1:
        raise UsageError("--id names one run, and several were given")
    asked = Replay(destination, entity, project, run_id)
    if print_only:
        for item in found:
            emit(plain_command(opened, item.entry, asked))
        return
    settings = configuration()
    require_wandb()
    names: list[str] = []
    before: str | None = None
    for item in found:
        place = replay(opened, item.entry, item.state, asked, predecessor=before)
        before = place.name
        names.append(place.name)
    if no_sync:
        emit(f"{len(names)} put in line: {', '.join(names)}; `wandb-spool sync` sends them")
        return
    stop = Stop()
    stop.listen()
    with speaking(log_json=False) as speaker:
        options = Options(only=frozenset(names))
        result = sync_once(opened, settings, os.environ, options, tell=speaker.tell, show=speaker.show, stopping=stop)
    if json:
        emit_json(as_json(result))
    else:
        summarise(result)
    raise typer.Exit(stop.exit_code or result.exit_code)
