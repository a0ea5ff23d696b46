"""Follow this run's own log while wandb-core writes it.

Guarantees: what ``Tail`` reports is complete on disk (its checksum was right), and each byte is read once. It never
raises for what it finds in the log: at a torn or damaged record it stops, and goes on when more bytes make it whole.
It knows just enough of the format (docs/log-format.md) to count records and to find the step of a row.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Dict, Iterator, List, Optional, Tuple

BLOCK_BYTES = 32768
FILE_HEADER_BYTES = 7
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

# Field numbers of Record's kinds that the hook counts.
BOOKKEEPING = (1, 16, 19, 200)  # num, control, uuid, _info
HISTORY, FILES, ARTIFACT, ALERT, EXIT = 2, 6, 8, 10, 18


def read_varint(data: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: bytes) -> Iterator[Tuple[int, object]]:
    """The (number, value) pairs of one message; length-delimited values as bytes, others as int."""
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = read_varint(data, at)
            yield tag >> 3, value
        elif kind == 2:
            size, at = read_varint(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            size = 8 if kind == 1 else 4
            yield tag >> 3, data[at : at + size]
            at += size


def kind_of(record: bytes) -> int:
    """The field number of the record's kind: the first field that is no bookkeeping."""
    for number, _ in fields(record):
        if number not in BOOKKEEPING:
            return number
    return 0


def step_of(record: bytes) -> Optional[int]:
    """The step of a history record."""
    for number, value in fields(record):
        if number == HISTORY and isinstance(value, bytes):
            for inner, step in fields(value):
                if inner == 2 and isinstance(step, bytes):
                    # A step message without its number means step 0.
                    return next((n for field, n in fields(step) if field == 1 and isinstance(n, int)), 0)
    return None


def records(path: str) -> Iterator[bytes]:
    """All complete records of a log."""
    try:
        with open(path, "rb") as log:
            log.seek(FILE_HEADER_BYTES)
            data = log.read()
    except OSError:
        return
    yield from Tail(path)._records(data)


class Tail:
    """What is on disk of one log so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.counts: Dict[int, int] = {}
        self.last_step = -1
        self.last_history: Optional[bytes] = None
        self._offset = FILE_HEADER_BYTES
        self._parts: List[bytes] = []

    @property
    def rows(self) -> int:
        return self.counts.get(HISTORY, 0)

    def size_bytes(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return -1

    def advance(self) -> bool:
        """Read what was added since the last call; true if there was a new complete record."""
        try:
            with open(self.path, "rb") as log:
                log.seek(self._offset)
                data = log.read()
        except OSError:
            return False
        seen = False
        newest: Optional[bytes] = None
        for record in self._records(data):
            seen = True
            kind = kind_of(record)
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if kind == HISTORY:
                newest = record
        if newest is not None:
            self.last_history = newest
            self.last_step = max(self.last_step, step_of(newest) or 0)
        return seen

    def _records(self, data: bytes) -> Iterator[bytes]:
        start, at, end = self._offset, 0, len(data)
        while True:
            room = BLOCK_BYTES - (start + at) % BLOCK_BYTES
            if room < CHUNK_HEADER.size:
                at += room
                continue
            if at + CHUNK_HEADER.size > end:
                break
            crc, size, kind = CHUNK_HEADER.unpack_from(data, at)
            body = at + CHUNK_HEADER.size
            if kind == 0 or body + size > end or zlib.crc32(data[body - 1 : body + size]) != crc:
                break
            at = body + size
            self._offset = start + at
            payload = data[body : body + size]
            if kind == FULL:
                yield payload
            elif kind == FIRST:
                self._parts = [payload]
            else:
                self._parts.append(payload)
                if kind == LAST:
                    yield b"".join(self._parts)
                    self._parts = []
