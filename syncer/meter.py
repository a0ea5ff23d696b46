"""How far a pass is: runs, rows, bytes, and when the push that runs will end.

Shows, several times a second at most, to whoever wants to see (bars, lines of a log). Bytes are what the servers' hosts
acknowledged, so that a large file on a slow link visibly moves; their total is what the push view holds, and therefore
an estimate. Pure but for the clock that it is given.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from .progress import SLOWEST_BYTES_PER_S

WINDOW_S = 60.0
"""The speed is that of the last minute."""


class Phase(str, Enum):
    LOOKING = "looking"
    CHECKING = "checking"
    PUSHING = "pushing"
    READING_BACK = "reading back"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Moving:
    """Where a pass is at one moment."""

    phase: Phase = Phase.LOOKING
    runs: int = 0
    """That are on their way now."""
    rows: int = 0
    """Of those, at most."""
    where: str = ""
    sent_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float | None = None
    done_runs: int = 0
    due_runs: int = 0
    done_rows: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the push has sent all; None while it reads its log, or hangs, and that can't be told."""
        left_bytes = self.total_bytes - self.sent_bytes
        slow = self.bytes_per_s is None or self.bytes_per_s < SLOWEST_BYTES_PER_S
        if self.phase is not Phase.PUSHING or slow or left_bytes <= 0:
            return None
        return left_bytes / (self.bytes_per_s or 1.0)

    @property
    def fraction(self) -> float:
        """Of the bytes of the push; below 1 until it has ended, because the total is an estimate."""
        return min(0.99, self.sent_bytes / self.total_bytes) if self.total_bytes else 0.0


class Meter:
    """Follows one pass."""

    def __init__(
        self, show: Callable[[Moving], None] = lambda moving: None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.moving = Moving()
        self._show = show
        self._now_s = now_s
        self._samples: deque[tuple[float, int]] = deque()

    def due(self, runs: int) -> None:
        """So many runs are due in this pass, also those that are done."""
        self._set(due_runs=runs)

    def enter(self, phase: Phase, runs: int, where: str = "", rows: int = 0, total_bytes: int = 0) -> None:
        """Another part of the work begins."""
        self._samples.clear()
        self._set(
            phase=phase, runs=runs, where=where, rows=rows, total_bytes=total_bytes, sent_bytes=0, bytes_per_s=None
        )
        self.sent(0)

    def sent(self, sent_bytes: int) -> None:
        """So many bytes of the push were acknowledged."""
        now_s = self._now_s()
        self._samples.append((now_s, sent_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        first_s, first_bytes = self._samples[0]
        passed_s = now_s - first_s
        self._set(sent_bytes=sent_bytes, bytes_per_s=(sent_bytes - first_bytes) / passed_s if passed_s > 0 else None)

    def settled(self, runs: int, rows: int) -> None:
        """So many runs came to their end in this pass, with so many rows delivered."""
        self._set(done_runs=self.moving.done_runs + runs, done_rows=self.moving.done_rows + rows)

    def rest(self) -> None:
        """Nothing is on its way."""
        self._set(phase=Phase.LOOKING, runs=0, rows=0, where="", sent_bytes=0, total_bytes=0, bytes_per_s=None)

    def tick(self) -> None:
        """Nothing changed; whoever looks sees that somebody is at work."""
        self._show(self.moving)

    def _set(self, **changes: object) -> None:
        self.moving = replace(self.moving, **changes)  # type: ignore[arg-type]
        self._show(self.moving)
