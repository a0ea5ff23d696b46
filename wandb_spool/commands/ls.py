"""`wandb-spool ls`: the runs of a spool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import JsonOption, SpoolOption
from wandb_spool.spool.states import State

if TYPE_CHECKING:
    from wandb_spool.survey import Found


def command(
    spool: SpoolOption = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", metavar="STATE", help="Only these states; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """The runs of the spool, the oldest first."""
    from wandb_spool.description import brief
    from wandb_spool.locate import open_spool
    from wandb_spool.output import complain, emit, emit_json, table
    from wandb_spool.survey import Survey

    survey = Survey.of(open_spool(spool))
    found = list(survey.read(state))
    for item in found:
        survey.check_directory(item)
    if json:
        emit_json([brief(item) for item in found])
    elif found:
        header = ("age", "state", "run", "name", "project", "rows", "tries", "reason")
        for line in table(header, [_row(item, time.time()) for item in found], right=frozenset({5, 6})):
            emit(line)
    elif not survey.problems:
        complain(f"no run{' in that state' if state else 's yet: `wandb-spool run -- python train.py`'}")
    for problem in survey.problems:
        complain(problem)
    raise typer.Exit(survey.exit_code)


def _row(found: Found, now_s: float) -> tuple[str, ...]:
    from wandb_spool.spool.words import age
    from wandb_spool.survey import age_s

    entry = found.entry
    project = f"{entry.entity}/{entry.project}" if entry.entity and entry.project else entry.project or ""
    return (
        age(age_s(entry.name, now_s)),
        found.state.value,
        entry.run_id or "?",
        entry.display_name or "",
        project,
        "" if entry.rows is None else str(entry.rows),
        str(entry.attempts or ""),
        entry.reason or "",
    )
