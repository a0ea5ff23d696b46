"""What was sent to wandb-core and is not proven to be on disk yet: what a new fragment would have to repeat.

Bounded: beyond ``CAP_CALLS`` or ``CAP_BYTES`` the oldest are dropped, and the rows among them are lost and counted.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Deque, List, Optional, Set

from .memory import time_of
from .tail import HISTORY, Tail

CAP_CALLS = 20_000
CAP_BYTES = 64 * 1024 * 1024
FORGET_S = 10.0  # a record that is no row, in a log that does not stand still


class Sent:
    """One call: a row's part (``kind`` is HISTORY) or another record; the time, and how many rows there were then."""

    __slots__ = ("at_row", "flush", "kind", "message", "ordinal", "sent_s", "size_bytes", "step")

    def __init__(self, kind: int, message: Any, at_row: int, ordinal: int, step: int = -1, flush: bool = False) -> None:
        self.kind = kind
        self.message = message
        self.at_row = at_row
        self.ordinal = ordinal
        self.step = step
        self.flush = flush
        self.sent_s = time.monotonic()
        self.size_bytes = message.ByteSize()

    def on_disk(self, tail: Tail) -> bool:
        """In order in, in order out: a row that was begun later proves all that was sent before it."""
        if self.kind == HISTORY:
            return self.step <= tail.last_step
        return tail.counts.get(HISTORY, 0) > self.at_row


class Journal:
    def __init__(self) -> None:
        self._sent: Deque[Sent] = deque()
        self._size_bytes = 0
        self.dropped = 0
        self.shared = False  # others log into the same run: their rows take steps that ours would have had

    def add(self, sent: Sent) -> None:
        self._sent.append(sent)
        self._size_bytes += sent.size_bytes
        while len(self._sent) > CAP_CALLS or self._size_bytes > CAP_BYTES:
            self._pop()
            self.dropped += 1

    def is_full(self) -> bool:
        return len(self._sent) >= CAP_CALLS or self._size_bytes >= CAP_BYTES

    def _pop(self) -> None:
        self._size_bytes -= self._sent.popleft().size_bytes

    def prune(self, tail: Tail) -> None:
        """Forget what is proven to be on disk. Called by the heart while other threads add at the other end."""
        old_s = time.monotonic() - FORGET_S
        while self._sent:
            first = self._sent[0]
            by_age = self.shared or first.kind != HISTORY
            proven = not self.shared and first.on_disk(tail)
            if not proven and (not by_age or first.sent_s > old_s):
                return
            self._pop()

    def waiting_since_s(self) -> Optional[float]:
        """Since when a committed row waits for the disk; None if the only row is the open one."""
        try:
            first, last = self._sent[0], self._sent[-1]
        except IndexError:
            return None
        committed = first.flush or first.at_row < last.at_row
        return first.sent_s if committed else None

    def all(self) -> List[Sent]:
        return list(self._sent)

    def missing(self, tail: Tail) -> List[Sent]:
        return [sent for sent in self._sent if not sent.on_disk(tail)]

    def sent_after(self, times_s: Set[float]) -> List[Sent]:
        """What followed the last row whose time stamp is among these: in a shared log steps prove nothing."""
        sent = list(self._sent)
        there = (at for at, one in enumerate(sent) if one.kind == HISTORY and time_of(one.message) in times_s)
        return sent[max(there, default=-1) + 1 :]
