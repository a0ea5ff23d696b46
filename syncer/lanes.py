"""While one push takes long, the daemon serves the rest beside it: a file of 50 GB holds up nobody.

A helper is a process of `wandb-spool sync` that leaves heavy runs alone, so that one lane is always free for the light
ones; at most `limits.pushes` push at once. Leases keep daemon and helpers apart, as they do any two syncers; nothing is
shared but the spool. A helper that fails costs a line of its own; the daemon goes on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .meter import Moving

LONG_S = 5.0
"""After so long at one piece of work somebody else may serve what comes."""
AGAIN_S = 300.0
"""Between two helpers while nothing new comes: for what is deferred, and for what only a pass finds."""
END_S = 6.0


class Lanes:
    """The helpers of one daemon."""

    def __init__(
        self, spool: Spool, arguments: Sequence[str], pushes: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._spool = spool
        self._words = [sys.executable, *arguments]
        self._most = pushes - 1
        self._now_s = now_s
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._work: tuple[object, ...] = ()
        self._since_s = self._last_s = now_s()
        self._seen: set[str] = set()

    def look(self, moving: Moving) -> None:
        """Called all the time while the daemon is at work; starts a helper when that takes long."""
        now_s = self._now_s()
        work = (moving.phase, moving.runs, moving.total_bytes)
        if work != self._work:
            self._work, self._since_s, self._last_s = work, now_s, float("-inf")
            self._seen.clear()
        if not moving.runs or now_s - self._since_s < LONG_S:
            return
        self._helpers = [helper for helper in self._helpers if helper.poll() is None]
        if len(self._helpers) < self._most:
            self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        waiting = {place.name for place in self._spool.places(State.INCOMING)}
        if not waiting - self._seen and now_s - self._last_s < AGAIN_S:
            return
        self._seen, self._last_s = waiting, now_s
        try:
            self._helpers.append(
                subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=True)
            )
        except OSError:
            pass  # no process, no memory: the next look tries again when something comes

    def close(self) -> None:
        """End the helpers as a person would: their entries go back, their leases are released."""
        for helper in self._helpers:
            helper.terminate()
        until_s = time.monotonic() + END_S
        for helper in self._helpers:
            try:
                helper.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
        self._helpers.clear()
