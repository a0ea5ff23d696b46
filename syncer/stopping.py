"""SIGTERM, Ctrl-C and a terminal that closes (SIGHUP): a pass ends soon and leaves nothing behind.

Entries go back to the queue, leases are released, no push is left.

The signal sets a flag that every loop asks; only a question to a server, which may block for a minute, is broken off by
an exception. The second signal of a kind ends the process as if nobody listened.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

from .failures import DeliveryError, Failure

_asking = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a call that blocks and may be broken off at any point. Main thread only, where signals arrive."""
    global _asking
    _asking = True
    try:
        yield
    finally:
        _asking = False


class Wake:
    """An event that a signal handler may set, whatever the interrupted code was doing.

    `threading.Event` takes a lock in `set`, `clear` and `wait`; a handler that runs while its own thread holds it waits
    for ever. `SimpleQueue.put` takes none (Python's documentation calls it reentrant).
    """

    def __init__(self) -> None:
        self._set: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._set.empty():
            self._set.put(None)

    def clear(self) -> None:
        while self.wait(0):
            pass

    def wait(self, timeout_s: float) -> bool:
        """True when it was set, which this takes back; False after `timeout_s`."""
        try:
            self._set.get(timeout_s > 0, timeout_s)
        except Empty:
            return False
        return True


class Stop:
    """Set by SIGTERM, SIGINT and SIGHUP; asked everywhere."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._wake: Callable[[], None] = lambda: None

    def listen(self, wake: Callable[[], None] = lambda: None) -> None:
        """Handle the signals of this process from now on."""
        self._wake = wake
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
            signal.signal(signal.SIGHUP, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        self._wake()
        if _asking:
            raise DeliveryError(Failure.INTERRUPTED, "the syncer was stopped")

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; SIGTERM as shells tell it."""
        return 0 if self.signal is None else 128 + self.signal
