"""The running service apart from HTTP: its store, accounts, switches, faults and counters, and how they change.

One `Service` lives as long as its server, over any number of outages; a `restart` drops the store's memory and reads
it back from disk, which is the test that what was acknowledged is lasting.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from wandb_spool.syncer.rehearsal.behaviour import ANY_ENTITY, DEFAULT_ENTITY, Account, Behaviour
from wandb_spool.syncer.rehearsal.faults import Fault, FaultPlan
from wandb_spool.syncer.rehearsal.store import Store


class Service:
    """What the request handlers share."""

    def __init__(
        self,
        data_dir: Path,
        *,
        behaviour: Behaviour,
        accounts: Sequence[Account] = (),
        faults: Sequence[Fault] = (),
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.data_dir, self.behaviour, self.clock = data_dir, behaviour, clock
        self.extra_accounts = tuple(accounts)
        self.requests: Counter[str] = Counter()
        self.misunderstood: list[str] = []  # what a client asked that the schema does not know
        self.plan = FaultPlan(tuple(faults), seed=seed)
        self.store = self._open()
        self._recent: deque[float] = deque()

    def restart(self) -> None:
        """Forget everything that is not on disk."""
        with self.store.lock:
            self.store.close()
            self.store = self._open()

    def close(self) -> None:
        with self.store.lock:
            self.store.close()

    @property
    def default_account(self) -> Account:
        return Account(self.store.key, self.behaviour.entity or DEFAULT_ENTITY, (ANY_ENTITY,))

    def account(self, key: str) -> Account | None:
        """Whose key this is."""
        return next((a for a in (self.default_account, *self.extra_accounts) if a.key == key), None)

    def over_the_limit(self) -> bool:
        """Counts one request against `requests_per_s`."""
        limit = self.behaviour.requests_per_s
        if limit is None:
            return False
        now = self.clock()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) >= limit:
            return True
        self._recent.append(now)
        return False

    def _open(self) -> Store:
        return Store(self.data_dir, fsync=self.behaviour.fsync, clock=self.clock)
