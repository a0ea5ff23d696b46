"""Bytes on their way to a disk: written by the caller, made durable beside it.

A disk is slower than a digest, so fsync runs in a thread of its own while the caller goes on. Guarantee: after `wait`
returned, everything that was handed over is durable; before, nothing may be believed. Fails with the `OSError` of the
first write or fsync that failed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from .capture import open_regular

_EARLY_BYTES = 64 << 20  # dirty pages that may gather before they are written back
_MOST_PENDING = 64  # closed files that may wait for their fsync
_CHUNK_BYTES = 1 << 20


class Writeback:
    """Makes files durable in the background; a context manager that waits for the rest."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bundle-fsync")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Writeback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)

    def flush(self, fd: int) -> None:
        """Begin to write back what was written so far, unless that is already under way."""
        if not self._pending:
            self._pending.append(self._pool.submit(os.fdatasync, fd))
        elif self._pending[0].done():
            self._pending.popleft().result()

    def close(self, fd: int) -> None:
        """Make a file durable and close it."""
        while len(self._pending) >= _MOST_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(_sync_and_close, fd))

    def wait(self) -> None:
        while self._pending:
            self._pending.popleft().result()


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FileSink:
    """Takes bytes for one open file. The file stays open: it is closed by its owner or through `Writeback.close`."""

    def __init__(self, fd: int, writeback: Writeback) -> None:
        self.fd = fd
        self.size_bytes = 0
        self._writeback = writeback
        self._flushed_bytes = 0

    def __call__(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            count = os.write(self.fd, view)
            view = view[count:]
            self.size_bytes += count
        if self.size_bytes - self._flushed_bytes >= _EARLY_BYTES:
            self._flushed_bytes = self.size_bytes
            self._writeback.flush(self.fd)


def read_chunks(path: Path) -> Iterator[memoryview]:
    """The content of a regular file, without following a link. A chunk is valid until the next one is asked for.

    Raises FileNotFoundError, ValueError (no regular file) or OSError.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with os.fdopen(open_regular(path), "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            yield buffer[:count]
