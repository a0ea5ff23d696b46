"""Entries without runs behind them, for what concerns the queue alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State

LAUNCH = "20261121T045000-n1-0a1b2c3d"


def entry(number: int = 0, **changes: Any) -> Entry:
    fragment = f"offline-run-20261121_045001-run{number:05d}"
    made = Entry(
        name=f"{LAUNCH}.{fragment}",
        launch=LAUNCH,
        fragment=fragment,
        path=f"runs/202611/{LAUNCH}/wandb/{fragment}",
        created="2026-11-21T04:50:01.123Z",
        run_id=f"run{number:05d}",
    )
    return replace(made, **changes)


def put(spool: Spool, state: State, number: int = 0, **changes: Any) -> Place:
    """An entry in a state, as if it had come there."""
    made = entry(number, **changes)
    if state is State.OPEN:
        return spool.add(made)
    if state is State.ACTIVE:
        return spool.claim(spool.add(made, State.INCOMING))
    place = spool.add(made, State.INCOMING)
    return (
        spool.move(spool.claim(place), State.DELIVERED, made) if state is State.DELIVERED else _raw(spool, place, state)
    )


def _raw(spool: Spool, place: Place, state: State) -> Place:
    path = spool.paths.entry(state, place.name)
    place.path.rename(path)
    return Place(place.name, state, str(path))
