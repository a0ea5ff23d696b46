"""While one push takes long, the daemon serves the rest beside it: a file of 50 GB holds up nobody.

A helper is a process of `wandb-spool sync` that leaves heavy runs alone, so that one lane is always free for the light
ones; at most `limits.pushes` push at once. Leases keep daemon and helpers apart, as they do any two syncers; nothing is
shared but the spool. A helper that fails costs a line of its own; the daemon goes on. At its end a helper prints what
it did (`--json`): that is how the daemon counts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .meter import Moving

LONG_S = 5.0
"""After so long at one piece of work somebody else may serve what comes."""
AGAIN_S = 300.0
"""Between two helpers while nothing new comes: for what is deferred, and for what only a pass finds."""
END_S = 6.0


@dataclass(frozen=True)
class _Helper:
    process: subprocess.Popen[bytes]
    printed: IO[bytes]

    def outcomes(self) -> list[Mapping[str, Any]]:
        """What became of the fragments that it took; none when it was killed before it could say so."""
        with self.printed:
            self.printed.seek(0)
            try:
                return list(json.load(self.printed)["outcomes"])
            except (ValueError, KeyError, TypeError):
                return []


class Lanes:
    """The helpers of one daemon."""

    def __init__(
        self,
        spool: Spool,
        arguments: Sequence[str],
        pushes: int,
        now_s: Callable[[], float] = time.monotonic,
        *,
        count: Callable[[Mapping[str, Any]], None] = lambda outcome: None,
    ) -> None:
        self._spool = spool
        self._words = [sys.executable, *arguments, "--json"]
        self._most = pushes - 1
        self._now_s = now_s
        self._count = count
        self._helpers: list[_Helper] = []
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
        self.reap()
        if len(self._helpers) < self._most:
            self._begin(now_s)

    def reap(self) -> None:
        """Count what the helpers did that have ended."""
        ended = [helper for helper in self._helpers if helper.process.poll() is not None]
        self._helpers = [helper for helper in self._helpers if helper not in ended]
        for helper in ended:
            for outcome in helper.outcomes():
                self._count(outcome)

    def _begin(self, now_s: float) -> None:
        waiting = {place.name for place in self._spool.places(State.INCOMING)}
        if not waiting - self._seen and now_s - self._last_s < AGAIN_S:
            return
        self._seen, self._last_s = waiting, now_s
        try:
            printed = tempfile.TemporaryFile()  # noqa: SIM115 - read and closed when the helper has ended
            process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=printed, close_fds=True)
        except OSError:
            return  # no process, no memory, no room: the next look tries again when something comes
        self._helpers.append(_Helper(process, printed))

    def close(self) -> None:
        """End the helpers as a person would: their entries go back, their leases are released."""
        for helper in self._helpers:
            helper.process.terminate()
        until_s = time.monotonic() + END_S
        for helper in self._helpers:
            try:
                helper.process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                helper.process.kill()
                helper.process.wait()
        self.reap()
