"""Leases: the right of one syncer to work on one target run, across processes and hosts (docs/format.md).

Guarantee: at most one holder pushes, as long as an owner that could not renew for half the expiry stops
(`Lease.must_stop`) and a taker waits for twice the expiry on its own clock. On one host and boot a dead owner is known
at once. Clocks of other hosts are never compared.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import durable
from .errors import StorageError
from .identity import Identity, Life, current, life
from .layout import FORMAT, new_token
from .queue import Spool

EXPIRES_S = 60.0


@dataclass
class Lease:
    """A held lease. Not thread-safe: one thread renews. `clock` is monotonic and runs on while a process is stopped."""

    path: Path
    token: str
    expires_s: float = EXPIRES_S
    clock: Callable[[], float] = time.monotonic
    sequence: int = 0
    renewed_s: float = field(default=float("-inf"))

    def renew(self) -> bool:
        """Write the next sequence number; False when the lease is no longer ours (then stop the push at once).

        A process that was stopped in here and continued past its expiry may overwrite its successor's lease: the
        second look at the clock makes it stop, and the successor sees a foreign token and stops too.
        """
        if self.must_stop():
            return False
        before = self.renewed_s
        seen = _read(self.path)
        if seen is None or seen.get("token") != self.token:
            self.renewed_s = float("-inf")
            return False
        try:
            durable.write_json(self.path, _body(self.token, self.expires_s, self.sequence + 1))
        except StorageError:
            return not self.must_stop()
        self.sequence += 1
        now = self.clock()
        if now - before >= self.expires_s / 2:
            self.renewed_s = float("-inf")
            return False
        self.renewed_s = now
        return True

    def due(self) -> bool:
        """Whether it is time to renew."""
        return self.clock() - self.renewed_s >= self.expires_s / 6

    def must_stop(self) -> bool:
        """Whether the owner has not been able to renew for half the expiry: its push must die."""
        return self.clock() - self.renewed_s >= self.expires_s / 2

    def release(self) -> None:
        """Give it up. A lease that somebody took over meanwhile is left alone."""
        seen = _read(self.path)
        if seen is not None and seen.get("token") == self.token:
            durable.remove(self.path)


@dataclass
class LeaseWatch:
    """What one syncer remembers of other people's leases: when it saw which sequence number on its own clock."""

    seen: dict[Path, tuple[str, int, float]]

    def __init__(self) -> None:
        self.seen = {}

    def stood_still(self, path: Path, body: dict[str, Any], monotonic_s: float) -> bool:
        """Whether this lease's sequence number stood still for twice its expiry on our clock."""
        mark = (str(body.get("token")), int(body.get("sequence") or 0))
        before = self.seen.get(path)
        if before is None or before[:2] != mark:
            self.seen[path] = (*mark, monotonic_s)
            return False
        return monotonic_s - before[2] >= 2 * float(body.get("expires_s") or EXPIRES_S)


def acquire(
    spool: Spool,
    key: str,
    watch: LeaseWatch,
    *,
    expires_s: float = EXPIRES_S,
    clock: Callable[[], float] = time.monotonic,
) -> Lease | None:
    """Take the lease on a target run, or None when somebody holds it."""
    path = spool.paths.lease(key)
    lease = Lease(path, new_token(), expires_s, clock, renewed_s=clock())
    if _create(lease):
        return lease
    holder = _read(path)
    if holder is not None and not _gone(holder) and not watch.stood_still(path, holder, clock()):
        return None
    if not _rename_away(path, holder):
        return None
    return lease if _create(lease) else None


def holder_of(spool: Spool, key: str) -> dict[str, Any] | None:
    """Who holds the lease on a target run; None when nobody does."""
    return _read(spool.paths.lease(key))


def _create(lease: Lease) -> bool:
    durable.make_directory(lease.path.parent)
    body = _body(lease.token, lease.expires_s, 0)
    return durable.create_exclusively(lease.path, durable.encode_json(body))


def _body(token: str, expires_s: float, sequence: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "token": token,
        "sequence": sequence,
        "expires_s": expires_s,
        "owner": current().as_json(),
    }


def _read(path: Path) -> dict[str, Any] | None:
    """The lease's body; an unreadable one is an owner of whom nothing is known (it must be seen to stand still)."""
    try:
        return durable.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        return {"token": "unreadable", "sequence": 0, "expires_s": EXPIRES_S}


def _gone(holder: dict[str, Any]) -> bool:
    owner = Identity.from_json(holder.get("owner"))
    return owner is not None and life(owner) is Life.DEAD


def _rename_away(path: Path, expected: dict[str, Any] | None) -> bool:
    """Move a stale lease aside: of several takers one rename succeeds. Puts it back if it was a newer one."""
    if expected is None:
        return True
    aside = path.parent / f".stale-{secrets.token_hex(6)}"
    try:
        durable.rename(path, aside)
    except FileNotFoundError:
        return False
    taken = _read(aside)
    if taken is not None and taken.get("token") != expected.get("token"):
        if not durable.create_exclusively(path, durable.encode_json(taken)):
            pass  # a third one is the holder now; the one we moved will notice at its next renewal and stop
        durable.remove(aside)
        return False
    durable.remove(aside)
    return True
