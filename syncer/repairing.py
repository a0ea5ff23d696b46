"""Send a run again that a cut push may have undone, when nobody else is going to (see `spool.repairs`).

The fragment whose push was cut mends the run with its next push. Where it won't be pushed any more (it was discarded,
held or quarantined), a delivered fragment of the run is replayed to the same target: it stands in the queue like any
other, is delivered like any other, and its push carries whatever the run lacks. Fails with `SpoolError`.
"""

from __future__ import annotations

from collections.abc import Callable

from wandb_spool.spool import repairs
from wandb_spool.spool.entry import Replay
from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State

from .replaying import replay

_PUSHES = frozenset({State.INCOMING, State.ACTIVE, State.DEFERRED})
_NOT_AGAIN = frozenset({State.HELD, State.QUARANTINED, State.TRANSIT, State.UNVERIFIED})
"""A repair that stands there is shown there; one repair is enough."""


def send_again(spool: Spool, tell: Callable[[str], None]) -> None:
    """Put in line what mends the runs whose lines may be gone."""
    found = list(repairs.marks(spool))
    places = spool.scan() if found else {}
    for mark in found:
        state = places[mark.entry].state if mark.entry in places else None
        if state in _PUSHES or (mark.repair and state in _NOT_AGAIN):
            continue
        if mark.repair and state is State.DISCARDED:
            repairs.clear(spool, mark.target)  # a person does not want it
            continue
        again = _again(spool, mark, places)
        if again is not None:
            tell(f"{again.name} sends {mark.target.path} again: a push that was cut may have undone rows of it")
            repairs.mark(spool, mark.target, again.name, mark.delivered, repair=True)


def _again(spool: Spool, mark: repairs.Mark, places: dict[str, Place]) -> Place | None:
    """A replay of one delivered fragment of the run; None when none is here any more."""
    for name in reversed(mark.delivered):
        place = places.get(name)
        if place is None or place.state is not State.DELIVERED:
            continue
        try:
            entry = spool.read(place)
            return replay(spool, entry, place.state, entry.replay or Replay())
        except (UsageError, FileNotFoundError):
            continue
    return None
