"""`wandb-spool discard`: throw runs away, and take that back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import RunsArgument, SpoolOption
from wandb_spool.spool.states import State

if TYPE_CHECKING:
    from wandb_spool.spool.entry import Entry

DISCARDABLE = frozenset(
    {
        State.INCOMING,
        State.DEFERRED,
        State.HELD,
        State.QUARANTINED,
        State.UNVERIFIED,
        State.TRANSIT,
        State.VOID,
        State.DELIVERED,
    }
)
REFUSALS: dict[State, str] = {
    State.OPEN: "is still open; `wandb-spool recover` seals it if its writer is gone",
    State.ACTIVE: "is being delivered right now; discard it when the pass is over",
    State.DISCARDED: "is discarded already",
}


def command(
    runs: RunsArgument,
    spool: SpoolOption = None,
    restore: Annotated[bool, typer.Option("--restore", help="Bring discarded runs back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Throw runs away. For 14 days `--restore` brings them back; after that `wandb-spool prune` frees their bytes.

    The balance counts discarded rows for ever.
    """
    from wandb_spool.moving import move_all, restored_state

    if restore:
        refusals: dict[State, str] = {state: "is not discarded" for state in State if state is not State.DISCARDED}
        code = move_all(
            spool, runs, restored_state, allowed_from=frozenset({State.DISCARDED}), refusals=refusals, unless=_is_freed
        )
    else:
        code = move_all(
            spool,
            runs,
            State.DISCARDED,
            allowed_from=DISCARDABLE,
            refusals=REFUSALS,
            question="Discard {runs} with {rows} rows that were not delivered?",
            yes=yes,
            undo="discard --restore",
        )
    raise typer.Exit(code)


def _is_freed(entry: Entry) -> str | None:
    """Why a discarded entry can't come back."""
    from wandb_spool.spool.trash import freed

    note = freed(entry)
    return None if note is None else f"was discarded and its bytes were freed ({note.get('at')}): it can't come back"
