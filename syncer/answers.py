"""Answers of a server, read within bounds: so many bytes (unpacked), so long, and no deeper than JSON can be read.

A server may be broken, or not be W&B's at all: the time-outs of sockets start anew with every byte, so one that drips
would hold a syncer for ever, and a packed answer of a megabyte may unpack to gigabytes. `Bounded` is for the sessions
that ask, `body_of` reads, `parsed` and `members` take apart what came. What is beyond the bounds or of another type is
a `DeliveryError`.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .failures import DeliveryError, Failure

MOST_BYTES = 256 << 20
"""A page of history is 5000 rows at most."""
ANSWER_S = 180.0
"""For a whole answer. Between two bytes of it the session's own time-out counts."""
_CHUNK_BYTES = 1 << 16

_watching = threading.local()


class Deadline:
    """One question's: cuts the connection when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self.passed = False

    def watch(self, connection: socket.socket) -> None:
        self.cancel()
        self._timer = threading.Timer(self._seconds, self._cut, [connection])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self, connection: socket.socket) -> None:
        self.passed = True
        try:
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS has nothing to say any more
        except OSError:
            pass  # it has ended by itself


@contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """Around a question that is asked by a session with `Bounded`."""
    _watching.deadline = one = Deadline(seconds)
    try:
        yield one
    finally:
        one.cancel()
        _watching.deadline = None


def _watch(connection: HTTPConnection) -> None:
    watched: Deadline | None = getattr(_watching, "deadline", None)
    if watched is not None and connection.sock is not None:
        watched.watch(connection.sock)


class _Plain(HTTPConnection):
    def getresponse(self, *arguments: Any, **named: Any) -> Any:
        _watch(self)
        return super().getresponse(*arguments, **named)


class _Tls(HTTPSConnection):
    def getresponse(self, *arguments: Any, **named: Any) -> Any:
        _watch(self)
        return super().getresponse(*arguments, **named)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


class Bounded(HTTPAdapter):
    """Connections on which `deadline` can cut off an answer, from its first byte on."""

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def proxy_manager_for(self, *arguments: Any, **named: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **named)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return manager


def body_of(response: requests.Response, base_url: str) -> bytes:
    """The unpacked bytes of an answer that was asked for with `stream=True`."""
    chunks: list[bytes] = []
    size_bytes = 0
    for chunk in response.iter_content(_CHUNK_BYTES):
        size_bytes += len(chunk)
        if size_bytes > MOST_BYTES:
            response.close()
            raise DeliveryError(Failure.UNREADABLE, f"{base_url} answers with more than {MOST_BYTES >> 20} MB")
        chunks.append(chunk)
    return b"".join(chunks)


def parsed(text: str | bytes) -> object:
    """What a JSON text says. Raises ValueError, also for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def members(value: object, what: str) -> dict[str, Any]:
    """An object of an answer; without members where the server says null. Raises DeliveryError for another type."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DeliveryError(Failure.UNREADABLE, f"what the server says of {what} is not an object")
    return value


def items(value: object, what: str) -> list[Any]:
    """A list of an answer; empty where the server says null. Raises DeliveryError for another type."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise DeliveryError(Failure.UNREADABLE, f"what the server says of {what} is not a list")
    return value
