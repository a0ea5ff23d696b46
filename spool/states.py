"""The states of an entry, the table of allowed transitions, and what stands when an entry is found twice.

Pure: docs/format.md explains each row; `spool/queue.py` is the only place that moves.
"""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """The directory of `queue/` in which an entry lies."""

    OPEN = "open"  # its writer may still live
    INCOMING = "incoming"  # sealed, never tried
    ACTIVE = "active"  # one syncer works on it
    DEFERRED = "deferred"  # try again later
    HELD = "held"  # set aside by a person
    TRANSIT = "transit"  # packed into a bundle
    QUARANTINED = "quarantined"  # set aside by the program, with reason and mend
    UNVERIFIED = "unverified"  # sent to a server that can't be read back
    VOID = "void"  # holds nothing that could be delivered
    DISCARDED = "discarded"  # thrown away by a person, restorable
    DELIVERED = "delivered"  # has a receipt

    def __str__(self) -> str:
        return self.value


_S = State

TRANSITIONS: dict[State, frozenset[State]] = {
    _S.OPEN: frozenset({_S.INCOMING, _S.VOID, _S.HELD, _S.QUARANTINED, _S.DISCARDED}),
    _S.INCOMING: frozenset({_S.ACTIVE, _S.HELD, _S.TRANSIT, _S.DISCARDED, _S.QUARANTINED, _S.OPEN}),
    _S.ACTIVE: frozenset(
        {_S.DELIVERED, _S.DEFERRED, _S.QUARANTINED, _S.UNVERIFIED, _S.INCOMING, _S.HELD, _S.VOID, _S.OPEN}
    ),
    _S.DEFERRED: frozenset({_S.ACTIVE, _S.HELD, _S.TRANSIT, _S.DISCARDED, _S.QUARANTINED, _S.INCOMING, _S.OPEN}),
    _S.HELD: frozenset({_S.INCOMING, _S.DISCARDED, _S.TRANSIT}),
    _S.TRANSIT: frozenset({_S.INCOMING, _S.DELIVERED, _S.DISCARDED}),
    _S.QUARANTINED: frozenset({_S.INCOMING, _S.HELD, _S.DISCARDED, _S.TRANSIT}),
    _S.UNVERIFIED: frozenset({_S.INCOMING, _S.DELIVERED, _S.DISCARDED}),
    _S.VOID: frozenset({_S.OPEN, _S.DISCARDED}),
    _S.DISCARDED: frozenset({_S.INCOMING, _S.VOID}),
    _S.DELIVERED: frozenset({_S.DISCARDED}),
}

# What a person said and what was proven outrank what is merely planned; open is last because every later state
# implies a seal. `delivered` counts here only with a receipt in the body (see `standing`).
PRECEDENCE: tuple[State, ...] = (
    _S.DELIVERED,
    _S.DISCARDED,
    _S.HELD,
    _S.TRANSIT,
    _S.QUARANTINED,
    _S.UNVERIFIED,
    _S.ACTIVE,
    _S.VOID,
    _S.DEFERRED,
    _S.INCOMING,
    _S.OPEN,
)

WAITING: frozenset[State] = frozenset(State) - {_S.DELIVERED, _S.DISCARDED, _S.VOID}
"""States in which the rows of a fragment are still owed to somebody (DESIGN, *balance*)."""


def allowed(source: State, target: State) -> bool:
    """Whether the transition table has this move."""
    return target in TRANSITIONS[source]


def standing(found: dict[State, bool]) -> State:
    """The state that stands when one entry lies in several directories.

    `found` maps each state in which it was seen to whether that copy's body carries a receipt.
    """
    for state in PRECEDENCE:
        if state in found and (state is not State.DELIVERED or found[state]):
            return state
    return State.DELIVERED
