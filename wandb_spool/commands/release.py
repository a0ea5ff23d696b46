"""`wandb-spool release`: put back what was set aside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import RunsArgument, SpoolOption
from wandb_spool.spool.states import State

if TYPE_CHECKING:
    from wandb_spool.spool.entry import Entry
    from wandb_spool.survey import Found, Survey

RELEASABLE = frozenset({State.HELD, State.QUARANTINED, State.UNVERIFIED, State.DEFERRED})
BLOCKING = frozenset({State.HELD, State.QUARANTINED, State.TRANSIT})


def command(
    runs: RunsArgument,
    spool: SpoolOption = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave them where they are, but let their successors go on without them.")
    ] = False,
) -> None:
    """Put back what was held or quarantined, due at once."""
    from wandb_spool.moving import move_all

    if skip:
        raise typer.Exit(_skip(spool, runs))
    code = move_all(spool, runs, State.INCOMING, allowed_from=RELEASABLE, refusals=REFUSALS, change=forgiven)
    raise typer.Exit(code)


REFUSALS: dict[State, str] = {
    State.INCOMING: "is due already",
    State.OPEN: "is still open; `wandb-spool recover` seals it if its writer is gone",
    State.DELIVERED: "is delivered; `wandb-spool replay` delivers it again",
    State.DISCARDED: "is discarded; `wandb-spool discard --restore` brings it back",
    State.TRANSIT: "is packed into a bundle; `wandb-spool unpack --receipts` or a release of the bundle brings it back",
}


def forgiven(entry: Entry) -> Entry:
    """Due at once, with a clean record: what a person releases is not set aside again for its past."""
    return replace(entry, reason=None, mend=None, not_before=None, backoff_s=0.0, refusals=0)


def _skip(spool: str | None, runs: list[str]) -> int:
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import complain, emit
    from wandb_spool.survey import Survey

    opened = open_spool(spool)
    survey = Survey.of(opened)
    blockers = _blockers(survey, find_runs(survey, runs))
    if not blockers:
        complain("nothing of these runs keeps a successor waiting; nothing was done")
        return 2
    for found in blockers:
        owned = opened.claim(found.place)
        entry = opened.read(owned)
        opened.rewrite(owned, replace(entry, extra={**entry.extra, "skipped": True}))
        opened.release(owned, found.state)
        emit(f"{found.entry.name} stays {found.state}; its successors go on without it")
    return 0


def _blockers(survey: Survey, chosen: list[Found]) -> list[Found]:
    """The set-aside fragments of the runs that were named, whichever of their fragments was named."""
    runs = {found.entry.run_id for found in chosen}
    return [found for found in survey.read(BLOCKING) if found.entry.run_id in runs]
