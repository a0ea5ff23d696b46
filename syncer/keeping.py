"""Keep the leases of a batch while its work goes on: reading large files, asking servers, pushing.

`tick` is called from every loop that may take long. It fails with `DeliveryError` (interrupted) when the syncer is told
to stop, so that no such loop outlives a SIGTERM by more than one turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from wandb_spool.spool.leases import Lease

from .failures import DeliveryError, Failure

TICK_S = 0.5


class Keeper:
    """The leases that are held."""

    def __init__(self, stopping: Callable[[], bool], also: Callable[[], None] = lambda: None) -> None:
        self._stopping = stopping
        self._also = also
        self._leases: list[Lease] = []
        self._last_s = time.monotonic()

    def add(self, lease: Lease) -> None:
        self._leases.append(lease)

    def remove(self, lease: Lease) -> None:
        self._leases.remove(lease)

    def renew(self) -> bool:
        """Renew what is due; False when one is lost: then a push that carries its run must die."""
        lost = [lease for lease in self._leases if lease.due() and not lease.renew()]
        return not lost

    def tick(self) -> None:
        """To be called often; does something twice a second."""
        now = time.monotonic()
        if now - self._last_s < TICK_S:
            return
        self._last_s = now
        if self._stopping():
            raise DeliveryError(Failure.INTERRUPTED, "the syncer was stopped")
        self.renew()
        self._also()
