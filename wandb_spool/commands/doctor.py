"""`wandb-spool doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

from typing import Annotated

import typer

from wandb_spool.parameters import JsonOption, SpoolOption


def command(
    spool: SpoolOption = None,
    notify: Annotated[bool, typer.Option("--notify", help="Send a test notification too.")] = False,
    json: JsonOption = False,
) -> None:
    """Look at all that a delivery needs: spool, room, file system, key, server, proxy, clock."""
    import os

    from wandb_spool.checkup import checkup, line
    from wandb_spool.output import emit, emit_json
    from wandb_spool.syncer.doctor import Verdict

    made = []
    for check in checkup(spool, os.environ, notify=notify):
        made.append(check)
        if not json:
            emit(line(check))
    wrong = any(check.verdict is Verdict.BAD for check in made)
    if json:
        emit_json({"ok": not wrong, "checks": [check.as_json() for check in made]})
    raise typer.Exit(1 if wrong else 0)
