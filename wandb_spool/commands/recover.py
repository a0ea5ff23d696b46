"""`wandb-spool recover`: seal what dead trainers, launchers and nodes left."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from wandb_spool.parameters import SpoolOption


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
    from wandb_spool.spool.recover import STALE_AFTER_S, Observations, recover
    from wandb_spool.spool.states import State

    opened = open_spool(spool)
    for line in opened.repair():
        emit(line)
    observations = Observations()
    told = recover(opened, observations)
    if wait and any(item.state is State.OPEN for item in told):
        for item in told:
            emit(f"{item.entry}: {item.state}: {item.why}")
        emit(f"watching for {STALE_AFTER_S:.0f} s")
        time.sleep(STALE_AFTER_S)
        told = recover(opened, observations)
    for item in told:
        emit(f"{item.entry}: {item.state}: {item.why}")
    if not told:
        emit("nothing is open")
