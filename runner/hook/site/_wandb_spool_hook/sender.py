"""Hand records to wandb-core without waiting for it.

Plain wandb runs a task of its asyncio thread for each record and waits for it. Here records are laid into a queue, in
order, and that thread writes all that it finds there in one go. When more than a window is under way and nothing moves
for ``PATIENCE_S``, wandb-core is *stalled*: from then on nothing waits until all has been taken. A wandb without that
thread (before 0.23), or with another way to frame its messages, is left to send as it does.
"""

from __future__ import annotations

import signal
import struct
import time
from collections import deque
from typing import Any, Callable, Deque

from .anatomy import messages, part
from .notice import say_once

WINDOW = 1000  # messages that wait for the asyncio thread
WINDOW_BYTES = 64 * 1024  # that wait for wandb-core, which is behind by the socket's own buffer then
PATIENCE_S = 0.2
LOOK_S = 0.001
FRAME = "<BI"  # a letter and the length, in every wandb since 0.22


class Stuck(Exception):
    """wandb-core lives, but takes nothing."""


class Sender:
    def __init__(self, interface: Any) -> None:
        self._interface = interface
        self._loop: Any = getattr(getattr(interface, "_asyncer", None), "_loop", None)
        writer = getattr(getattr(interface, "_client", None), "_writer", None)
        self._transport: Any = getattr(writer, "transport", None)
        self._direct = self._loop is not None and self._transport is not None and _frames_are_known()
        self._waiting: Deque[bytes] = deque()
        self._called = False
        self.stalled = False
        if self._direct:
            self._call(_survive_broken_pipes)

    def send(self, record: Any, original: Any, nowait: bool) -> None:
        """Raises what wandb raised for this record or for an earlier one."""
        if not self._direct:
            original(self._interface, record, **({"nowait": True} if nowait else {}))
            return
        # asyncio would print a line for each write to a broken connection.
        if self._transport.is_closing():
            raise ConnectionResetError("wandb-core died")
        message = self._framed(record)
        if not nowait:  # console output comes perhaps from the asyncio thread, which must not wait for itself
            self._make_room()
        self._waiting.append(message)
        if not self._called:
            self._called = True
            self._call(self._write)

    def _call(self, action: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(action)

    def _framed(self, record: Any) -> bytes:
        self._interface._assign(record)
        request = server_request()
        request.record_publish.CopyFrom(record)
        data: bytes = request.SerializeToString()
        return struct.pack(FRAME, ord("W"), len(data)) + data

    def _write(self) -> None:
        """In the asyncio thread: what is laid into the queue from the first line on calls for another round."""
        self._called = False
        messages = []
        while self._waiting:
            messages.append(self._waiting.popleft())
        if messages and not self._transport.is_closing():
            self._transport.write(b"".join(messages))

    def _make_room(self) -> None:
        if self.stalled:
            self.stalled = self._left() > 0
        elif self._is_full():
            self._wait()

    def _is_full(self) -> bool:
        return len(self._waiting) > WINDOW or self._transport.get_write_buffer_size() > WINDOW_BYTES

    def _left(self) -> int:
        """A number that falls when anything moves."""
        return len(self._waiting) + int(self._transport.get_write_buffer_size())

    def _wait(self) -> None:
        """For a moment: a slow wandb-core is given time, a stopped one is not."""
        before, end_s = self._left(), time.monotonic() + PATIENCE_S
        while self._is_full() and time.monotonic() < end_s:
            time.sleep(LOOK_S)
        if self._is_full() and self._left() >= before:
            self.stalled = True
            say_once(
                "stalled",
                "wandb-core does not take what is logged (stopped?); it is kept in memory, training goes on",
            )


def _survive_broken_pipes() -> None:
    """In the asyncio thread: a program may have given SIGPIPE its default back, and die with wandb-core."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])


def _frames_are_known() -> bool:
    try:
        return bool(part("lib.service.service_client")._HEADER_BYTE_INT_FMT == FRAME)
    except (ImportError, AttributeError):
        return False


def server_request() -> Any:
    global _request_class
    if _request_class is None:
        _request_class = messages("wandb_server_pb2").ServerRequest
    return _request_class()


_request_class: Any = None
