"""`wandb-spool recover`: seal what dead trainers, launchers and nodes left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.queue import Spool
    from wandb_spool.spool.recover import Recovered


def command(
    spool: SpoolOption = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Watch the writers that can't be seen from here for a minute, then decide."),
    ] = False,
) -> None:
    """Seal what the dead left. A run that is alive is never touched."""
    from wandb_spool.locate import open_spool
    from wandb_spool.output import emit
    from wandb_spool.spool.recover import STALE_AFTER_S
    from wandb_spool.spool.states import State

    opened = open_spool(spool)
    for line in opened.repair():
        emit(line)
    told = _recover(opened)
    if wait and any(item.state is State.OPEN for item in told):
        emit(f"watching for {STALE_AFTER_S:.0f} s: {', '.join(i.entry for i in told if i.state is State.OPEN)}")
        time.sleep(STALE_AFTER_S)
        told = [*(item for item in told if item.state is not State.OPEN), *_recover(opened)]
    for item in told:
        emit(f"{item.entry}: {item.state}: {item.why}")
    if not told:
        emit("nothing is open")


def _recover(spool: Spool) -> list[Recovered]:
    """What this host saw earlier counts, so that two calls a minute apart decide what one call can't."""
    from wandb_spool.output import emit
    from wandb_spool.spool.observations import load_observations, save_observations
    from wandb_spool.spool.recover import Observations, put_back_abandoned, recover, reopen_grown

    observations = Observations(load_observations(spool))
    for place in put_back_abandoned(spool, observations):
        emit(f"{place.name}: {place.state}: its syncer is gone")
    for place in reopen_grown(spool):
        emit(f"{place.name}: {place.state}: its log grew after it was sealed")
    told = recover(spool, observations)
    save_observations(spool, observations.seen)
    return told
