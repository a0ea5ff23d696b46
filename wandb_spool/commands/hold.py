"""`wandb-spool hold`: a person sets runs aside."""

from __future__ import annotations

import typer

from wandb_spool.parameters import RunsArgument, SpoolOption
from wandb_spool.spool.states import State

HOLDABLE = frozenset({State.INCOMING, State.DEFERRED, State.QUARANTINED})


def command(runs: RunsArgument, spool: SpoolOption = None) -> None:
    """Set runs aside: they are not delivered until they are released."""
    from wandb_spool.moving import move_all

    raise typer.Exit(move_all(spool, runs, State.HELD, allowed_from=HOLDABLE, refusals=REFUSALS))


REFUSALS: dict[State, str] = {
    State.OPEN: "is still open; start it with `run --hold`, or hold it when it is sealed",
    State.ACTIVE: "is being delivered right now; hold it when the pass is over",
    State.HELD: "is held already",
    State.DELIVERED: "is delivered",
}
