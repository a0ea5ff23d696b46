"""`wandb-spool discard`: throw runs away, and take that back."""

from __future__ import annotations

from typing import Annotated

import typer

from wandb_spool.parameters import RunsArgument, SpoolOption
from wandb_spool.spool.states import State

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
    """Throw runs away. Their files stay for 14 days, in which `--restore` brings them back."""
    from wandb_spool.moving import move_all, restored_state

    if restore:
        refusals: dict[State, str] = {state: "is not discarded" for state in State if state is not State.DISCARDED}
        code = move_all(spool, runs, restored_state, allowed_from=frozenset({State.DISCARDED}), refusals=refusals)
    else:
        code = move_all(
            spool,
            runs,
            State.DISCARDED,
            allowed_from=DISCARDABLE,
            refusals=REFUSALS,
            question="Discard {runs} with {rows} rows that were not delivered?",
            yes=yes,
        )
    raise typer.Exit(code)
