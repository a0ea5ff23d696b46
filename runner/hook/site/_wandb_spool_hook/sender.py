"""Hand records to wandb-core without waiting for it.

Plain wandb waits until each record is in the socket; here up to ``WINDOW`` records are on their way in wandb's own
asyncio thread, in order. When the window does not move for ``PATIENCE_S``, wandb-core is *stalled*: from then on
nothing waits until it moves again. A wandb without that thread (before 0.23) is left to send as it does.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from typing import Any, Deque

from .anatomy import messages
from .notice import say_once

WINDOW = 64
PATIENCE_S = 0.2


class Stuck(Exception):
    """wandb-core lives, but takes nothing."""


class Sender:
    def __init__(self, interface: Any) -> None:
        self._interface = interface
        self._schedule = getattr(getattr(interface, "_asyncer", None), "_schedule", None)
        writer = getattr(getattr(interface, "_client", None), "_writer", None)
        self._transport = getattr(writer, "transport", None)
        self._under_way: Deque[Any] = deque()
        self.stalled = False

    def send(self, record: Any, original: Any, nowait: bool) -> None:
        """Raises what wandb raised for this record or for an earlier one."""
        if self._schedule is None:
            original(self._interface, record, **({"nowait": True} if nowait else {}))
            return
        if nowait:  # console output, perhaps from within the asyncio thread
            self._interface._asyncer.run_soon(self._publication(record))
            return
        self._settle()
        if len(self._under_way) >= WINDOW and not self.stalled:
            self._wait()
        self._under_way.append(self._schedule(self._publication(record), daemon=False))

    def _publication(self, record: Any) -> Any:
        interface = self._interface
        interface._assign(record)
        request = server_request()
        request.record_publish.CopyFrom(record)
        client, transport = interface._client, self._transport

        def publish() -> Any:
            # asyncio would print a line for each write to a broken connection.
            if transport is not None and transport.is_closing():
                raise ConnectionResetError("wandb-core died")
            return client.publish(request)

        return publish

    def _settle(self) -> None:
        under_way = self._under_way
        while under_way and under_way[0].done():
            under_way.popleft().result()
        if self.stalled and not under_way:
            self.stalled = False

    def _wait(self) -> None:
        try:
            self._under_way[len(self._under_way) // 2].result(timeout=PATIENCE_S)
        except concurrent.futures.TimeoutError:
            self.stalled = True
            say_once(
                "stalled",
                "wandb-core does not take what is logged (stopped?); it is kept in memory, training goes on",
            )


def server_request() -> Any:
    global _request_class
    if _request_class is None:
        _request_class = messages("wandb_server_pb2").ServerRequest
    return _request_class()


_request_class: Any = None
