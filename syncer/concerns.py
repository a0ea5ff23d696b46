"""What needs a person: one list, which `status` shows and notifications tell.

A pure function of entries, clock and free room (`room_of` asks for it). Each concern says what happened, whether
anything is lost, and the one next command; its key is what "at most one a day" counts by.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from wandb_spool.spool.clock import seconds
from wandb_spool.spool.configuration import Configuration
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import WAITING, State
from wandb_spool.spool.words import age, count, size

from .plan import Known

DAY_S = 86400.0
LITTLE_BYTES = 1 << 30
LITTLE_INODES = 10_000
NAMED = 20
_QUEUED = frozenset({State.INCOMING, State.DEFERRED})
_ROTTING = WAITING - {State.OPEN}
"""What lies still; the files of an open fragment are still being written."""


class Cause(str, Enum):
    """Why a person is needed."""

    QUARANTINED = "quarantined"
    AUTH = "auth"
    UNDELIVERED = "undelivered"
    PURGE = "purge"
    DISK = "disk"
    DAMAGED = "damaged"
    SPOOL = "spool"
    TEST = "test"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Concern:
    """One thing that does not mend itself."""

    cause: Cause
    what: str
    mend: str
    about: str = ""
    """What tells two concerns of one cause apart: a class of failure, a server."""
    entries: tuple[str, ...] = ()
    number: int = 0

    @property
    def key(self) -> str:
        return f"{self.cause}:{self.about}"

    @property
    def text(self) -> str:
        return f"{self.what} · {self.mend}"


@dataclass(frozen=True)
class Room:
    """What is left where the spool lies; None where that can't be told."""

    free_bytes: int
    free_inodes: int | None


def room_of(spool: Spool) -> Room | None:
    """What is left for somebody who is not root; None where that can't be told."""
    try:
        free = os.statvfs(spool.root)
    except OSError:
        return None
    return Room(free.f_bavail * free.f_frsize, free.f_favail if free.f_files else None)


def concerns(
    known: Iterable[Known], configuration: Configuration, now_s: float, room: Room | None = None
) -> list[Concern]:
    """Everything that needs a person, the worst first."""
    seen = list(known)
    return [
        *of_room(room),
        *_refused_keys(seen),
        *_quarantined(seen),
        *_rotting(seen, configuration.purge_days, now_s),
        *_undelivered(seen, configuration.limits.stuck_s, now_s),
    ]


def of_room(room: Room | None) -> Iterator[Concern]:
    """A disk that is nearly full: trainings lose rows when it is."""
    if room is None:
        return
    inodes_left = LITTLE_INODES if room.free_inodes is None else room.free_inodes
    if room.free_bytes >= LITTLE_BYTES and inodes_left >= LITTLE_INODES:
        return
    left = f"{size(room.free_bytes)} free" if room.free_bytes < LITTLE_BYTES else f"{inodes_left} files can be made"
    what = f"the disk of the spool is nearly full ({left}): trainings lose rows when it is"
    yield Concern(Cause.DISK, what, "`wandb-spool prune --older-than 7d` frees what was delivered and read back")


def failure_of(entry: Entry) -> str:
    """The class of failure that stands in front of a reason; empty when there is none."""
    head, colon, _ = (entry.reason or "").partition(":")
    return head if colon else ""


def queued_s(entry: Entry) -> float | None:
    """Since when a fragment could have been delivered: when it was queued first."""
    first = next((event.get("at") for event in entry.history if event.get("to") == State.INCOMING.value), None)
    return seconds(first or entry.created)


def _refused_keys(known: Sequence[Known]) -> Iterator[Concern]:
    for server, items in _grouped((_server(item.entry), item) for item in _queued(known, "auth")).items():
        what = f"{server} refuses the key ({_detail(items[-1].entry)}); {_wait(items)}, nothing is lost"
        yield _concern(Cause.AUTH, server, items, what, items[-1].entry.mend)


def _quarantined(known: Sequence[Known]) -> Iterator[Concern]:
    aside = [item for item in known if item.state is State.QUARANTINED]
    for failure, items in _grouped((failure_of(item.entry), item) for item in aside).items():
        reason = items[-1].entry.reason or "no reason was kept"
        what = f"{count(len(items), 'run is', 'runs are')} quarantined: {reason}"
        mend = (items[-1].entry.mend or "`wandb-spool show RUN` tells more, then `wandb-spool release RUN`").replace(
            "RUN", _run(items)
        )
        yield _concern(Cause.QUARANTINED, failure, items, what, mend)


def _rotting(known: Sequence[Known], purge_days: float | None, now_s: float) -> Iterator[Concern]:
    if purge_days is None:
        return
    ages = [(now_s - (seconds(item.entry.created) or now_s), item) for item in known if item.state in _ROTTING]
    old = [(age_s, item) for age_s, item in ages if age_s > purge_days * DAY_S / 2]
    if not old:
        return
    left_s = purge_days * DAY_S - max(age_s for age_s, _ in old)
    when = f"the first in {age(left_s)}" if left_s > 0 else "files may be gone already"
    what = (
        f"{count(len(old), 'run is', 'runs are')} undelivered past half of the {purge_days:g} days after which this"
        f" site deletes files ({when})"
    )
    yield _concern(Cause.PURGE, "", [item for _, item in old], what, "`wandb-spool sync --all`, or `wandb-spool pack`")


def _undelivered(known: Sequence[Known], stuck_s: float, now_s: float) -> Iterator[Concern]:
    """What could have been delivered long ago; a refused key has its own message."""
    stuck = [item for item in _queued(known) if now_s - (queued_s(item.entry) or now_s) > stuck_s]
    told = [item for item in stuck if failure_of(item.entry) != "auth"]
    for failure, items in _grouped((failure_of(item.entry), item) for item in told).items():
        oldest_s = max(now_s - (queued_s(item.entry) or now_s) for item in items)
        why = items[-1].entry.reason or "nobody tried to send them"
        what = f"{count(len(items), 'run waits', 'runs wait')} undelivered, the oldest for {age(oldest_s)}: {why}"
        mend = "`wandb-spool doctor` tells what is wrong on the way" if failure else "`wandb-spool sync`"
        yield _concern(Cause.UNDELIVERED, failure, items, what, mend)


def _queued(known: Sequence[Known], failure: str | None = None) -> list[Known]:
    return [item for item in known if item.state in _QUEUED and failure in (None, failure_of(item.entry))]


def _grouped(pairs: Iterable[tuple[str, Known]]) -> dict[str, list[Known]]:
    groups: dict[str, list[Known]] = {}
    for key, item in pairs:
        groups.setdefault(key, []).append(item)
    return groups


def _server(entry: Entry) -> str:
    return (entry.target.base_url if entry.target else entry.base_url) or "the server"


def _detail(entry: Entry) -> str:
    return (entry.reason or "").partition(": ")[2]


def _wait(items: Sequence[Known]) -> str:
    return count(len(items), "run waits", "runs wait")


def _run(items: Sequence[Known]) -> str:
    """What a person types for RUN; the word itself where there are several."""
    return items[0].entry.name if len(items) == 1 else "RUN"


def _concern(cause: Cause, about: str, items: Sequence[Known], what: str, mend: str | None) -> Concern:
    names = tuple(item.entry.name for item in items)
    return Concern(cause, what, mend or "`wandb-spool doctor`", about, names[:NAMED], len(names))
