"""The framing of a `.wandb` log: header, 32 KiB blocks, chunks with a CRC.

Guarantees of `LogReader`
* Whatever the bytes are, reading ends, and says how in `ending`. Only the file system can raise (`OSError`).
* Memory: one read buffer of 1 MiB and the record at hand, which is at most `max_record_bytes`; time: linear.
* What is yielded is whole: every chunk's CRC was right and the payload is a protobuf message at its top level.
* With `salvage=True` reading goes on behind damage, at the next chunk that is whole. A record of which any chunk is
  missing is never yielded, so salvage may lose records and never makes one up.
* A log that is being written while it is read ends *clean* or *torn* where the reader met its end.

Guarantees of `LogWriter`: the same records give the same bytes as wandb's own writer gives.

Layout: 7 bytes of header; then chunks of LE32 CRC-32 over type byte and data, LE16 length, type (1 full, 2 first,
3 middle, 4 last), data. Blocks are counted from the start of the file; what is left of a block, when it is less
than a chunk header, is zero.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple
from zlib import crc32

from wandb_spool.spool.log.record import Record, RecordKind, classify
from wandb_spool.spool.log.wire import WireError

HEADER = b":W&B\xe1\xbe\x00"
BLOCK_BYTES = 32 * 1024
CHUNK_HEADER_BYTES = 7
MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Larger records are damage of cause *too large*: no server takes them, and a hostile log must not fill memory."""

_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_CRC_OF_TYPE = tuple(crc32(bytes((number,))) for number in range(256))
_CHUNK = struct.Struct("<IHB")
_CHUNK_START = struct.Struct("<IH")
_RECORD_START = re.compile(rb"[\x01\x02]")  # the type byte of a chunk with which a record begins
_BUFFER_BYTES = 32 * BLOCK_BYTES
_RUN, _EXIT = int(RecordKind.RUN), int(RecordKind.EXIT)
_MAX_LISTED = 1000
_PROBE_BYTES_PER_BLOCK = 8 * 1024 * 1024  # CRC work that the search for the next whole chunk may spend in one block


class EndingKind(Enum):
    FINISHED = "finished"
    """The last record is the exit."""
    CLEAN = "clean"
    """Ends on a record boundary, without an exit: still being written, or its writer died."""
    TORN = "torn"
    """The last record is incomplete, and nothing whole follows."""
    DAMAGED = "damaged"
    """Bytes are wrong. Without salvage reading stopped there; with salvage `damage` lists what was passed over."""
    VOID = "void"
    """Holds nothing that could be delivered: not a log, or no run record."""


class Cause(Enum):
    """Why the log is not whole at that place."""

    EMPTY = "no record at all"
    NOT_A_LOG = "this is no .wandb log"
    HEADER = "the file header is wrong"
    NO_RUN = "no run record"
    INCOMPLETE = "the file ends inside a record"
    ZEROS = "the file ends in zeros"
    CHECKSUM = "a checksum is wrong"
    FRAMING = "chunks are missing or out of order"
    TOO_LARGE = "a record is larger than the limit"
    NOT_A_RECORD = "the content is not a record"


_PERHAPS_TORN = frozenset({Cause.INCOMPLETE, Cause.ZEROS})  # torn when nothing whole follows, else damaged


@dataclass(frozen=True)
class Ending:
    kind: EndingKind
    offset: int
    """Where the prefix of whole records ends; for FINISHED and CLEAN that is the end of the file."""
    cause: Cause | None = None


@dataclass(frozen=True)
class Damage:
    """Bytes `start` to `end` were passed over."""

    start: int
    end: int
    cause: Cause


@dataclass(frozen=True)
class NumGap:
    """Records `first` to `last` by sequence number are not in the log."""

    first: int
    last: int


class _Piece(NamedTuple):
    """What one stretch of a block holds: whole chunks as (type, start, data), then perhaps a fault."""

    base: int
    """Place in the file from which the starts of chunks are counted."""
    chunks: list[tuple[int, int, bytes]]
    fault_at: int = 0
    fault: Cause | None = None


def read_records(
    source: Path | str | BinaryIO, *, salvage: bool = False, max_record_bytes: int = MAX_RECORD_BYTES
) -> LogReader:
    """Read the records of a log. A file object is read from where it stands, which has to be the log's start."""
    return LogReader(source, salvage=salvage, max_record_bytes=max_record_bytes)


class LogReader:
    """Iterates once over the records of a log; then `ending` and the other attributes are final."""

    def __init__(
        self,
        source: Path | str | BinaryIO,
        *,
        salvage: bool = False,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self._opened = Path(source).open("rb") if isinstance(source, (str, Path)) else None  # noqa: SIM115
        self._file: BinaryIO = self._opened or source  # type: ignore[assignment]
        self._salvage = salvage
        self._max_record_bytes = max_record_bytes
        self._ending: Ending | None = None
        self.damage: list[Damage] = []
        """What salvage passed over; at most 1000 spans, `damaged_bytes` counts all."""
        self.damaged_bytes = 0
        self.num_gaps: list[NumGap] = []
        """Sequence numbers that are not there; at most 1000 spans, `missing_records` counts all."""
        self.missing_records = 0
        self.repeated_nums = 0
        """Records whose sequence number is not above those before them."""
        self.good_bytes = 0
        """Size of the prefix that holds whole records only."""

        self._read_bytes = 0
        self._pending: bytearray | None = None  # data of a record whose last chunk has not come yet
        self._pending_start = 0
        self._fault_at: int | None = None  # where bytes went wrong; None again behind the next whole record
        self._fault = Cause.EMPTY
        self._first_fault: Cause | None = None
        self._expected_num = 1
        self._run_seen = False
        self._records = self._read()

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._records.close()
        if self._opened:
            self._opened.close()

    @property
    def ending(self) -> Ending:
        if self._ending is None:
            raise RuntimeError("the ending of a log is known when all its records have been read")
        return self._ending

    def _read(self) -> Generator[Record, None, None]:
        record = partial(tuple.__new__, Record)  # a record for each of millions: without the detour of a NamedTuple
        kind: RecordKind | int = RecordKind.NONE
        for base, chunks, fault_at, fault in _pieces(self._fetch):
            # The hot path: everything rare is a method of its own.
            if chunks and self._fault_at is not None and not self._salvage:
                break  # the tail that looked torn is damage: something whole follows it
            for chunk_type, start, data in chunks:
                offset = base + start
                payload: bytes | None = data
                if chunk_type != _FULL or self._pending is not None:
                    payload = self._assemble(chunk_type, offset, data)
                    offset = self._pending_start
                if payload is not None:
                    try:
                        kind, num, content_at = classify(payload)
                    except WireError:
                        self._fail(offset, Cause.NOT_A_RECORD)
                    else:
                        if self._fault_at is not None:
                            self._heal(offset)
                        if num == self._expected_num:
                            self._expected_num += 1
                        else:
                            self._note_num(num)
                        if kind == _RUN:
                            self._run_seen = True
                        if self._first_fault is None:
                            self.good_bytes = base + start + CHUNK_HEADER_BYTES + len(data)
                        yield record((kind, num, payload, offset, content_at))
                if self._fault_at is not None and not self._salvage:
                    break
            if fault is not None:
                self._fail(fault_at, fault)
            if self._fault_at is not None and not self._salvage and self._fault not in _PERHAPS_TORN:
                break
        else:
            self._ending = self._conclude(at_end=True, last_kind=kind)
        self._ending = self._ending or self._conclude(at_end=False, last_kind=kind)
        if self._opened:
            self._opened.close()

    def _fetch(self) -> bytes:
        """The next part of the file, a whole number of blocks; shorter only at its end."""
        data = self._file.read(_BUFFER_BYTES) or b""
        while 0 < len(data) < _BUFFER_BYTES:
            more = self._file.read(_BUFFER_BYTES - len(data))
            if not more:
                break
            data += more
        self._read_bytes += len(data)
        return data

    def _assemble(self, chunk_type: int, offset: int, data: bytes) -> bytes | None:
        """Take in a chunk that is not a record by itself; the payload when it completes one."""
        if chunk_type in (_FULL, _FIRST):
            if self._pending is not None:
                self._fail(offset, Cause.FRAMING)
            self._pending_start = offset
            if chunk_type == _FULL:
                return data if self._fault_at is None or self._salvage else None
            self._pending = bytearray(data)
            return None
        if self._pending is None:
            self._fail(offset, Cause.FRAMING)
            return None
        self._pending += data
        if len(self._pending) > self._max_record_bytes:
            self._fail(offset, Cause.TOO_LARGE)
        elif chunk_type == _LAST:
            whole, self._pending = bytes(self._pending), None
            return whole
        return None

    def _fail(self, offset: int, cause: Cause) -> None:
        """Something is wrong at `offset`; the record that was being put together there is lost."""
        if self._fault_at is None:
            self._fault_at = self._pending_start if self._pending is not None else offset
            self._fault = cause
        self._first_fault = self._first_fault or self._fault
        self._pending = None

    def _heal(self, offset: int) -> None:
        """A whole record begins at `offset`: what came before it, from the fault on, was passed over."""
        assert self._fault_at is not None
        if self._fault is Cause.INCOMPLETE:  # it looked like the end and was a wrong length
            self._fault = Cause.FRAMING
        self.damaged_bytes += offset - self._fault_at
        if len(self.damage) < _MAX_LISTED:
            self.damage.append(Damage(self._fault_at, offset, self._fault))
        self._fault_at = None

    def _note_num(self, num: int) -> None:
        if num < self._expected_num:
            self.repeated_nums += 1
            return
        self.missing_records += num - self._expected_num
        if len(self.num_gaps) < _MAX_LISTED:
            self.num_gaps.append(NumGap(self._expected_num, num - 1))
        self._expected_num = num + 1

    def _conclude(self, *, at_end: bool, last_kind: int) -> Ending:
        if at_end and self._pending is not None:
            self._fail(self._pending_start, Cause.INCOMPLETE)
        torn = at_end and self._fault_at is not None and self._fault in _PERHAPS_TORN
        if self._salvage and self._fault_at is not None and not torn:
            self._heal(self._read_bytes)
        kind = self._ending_kind(at_end=at_end, torn=torn, last_kind=last_kind)
        cause = self._first_fault
        if kind is EndingKind.VOID and cause is None:
            cause = Cause.EMPTY if self._read_bytes <= len(HEADER) else Cause.NO_RUN
        if kind is EndingKind.DAMAGED and cause is Cause.INCOMPLETE:
            cause = Cause.FRAMING
        return Ending(kind, self.good_bytes, cause)

    def _ending_kind(self, *, at_end: bool, torn: bool, last_kind: int) -> EndingKind:
        if not self._run_seen and (at_end or self._first_fault is Cause.NOT_A_LOG):
            return EndingKind.VOID
        if self.damage or (self._fault_at is not None and not torn):
            return EndingKind.DAMAGED
        if torn:
            return EndingKind.TORN
        return EndingKind.FINISHED if last_kind == _EXIT else EndingKind.CLEAN


def _pieces(fetch: Callable[[], bytes]) -> Iterator[_Piece]:
    """Cut the file into chunks. After a fault it goes on, when asked, at the next chunk that is whole."""
    buffer, base, pos = fetch(), 0, len(HEADER)
    if len(buffer) <= len(HEADER):
        return
    if not buffer.startswith(HEADER):
        begins = _is_whole_chunk(buffer, pos, min(len(buffer), BLOCK_BYTES))
        yield _Piece(0, [], 0, Cause.HEADER if begins else Cause.NOT_A_LOG)
    while buffer:
        while pos < len(buffer):
            room = (pos // BLOCK_BYTES + 1) * BLOCK_BYTES
            block_stop = min(len(buffer), room)
            chunks, pos = _whole_chunks(buffer, pos, block_stop)
            fault = _diagnose(buffer, pos, block_stop, room)
            yield _Piece(base, chunks, base + pos, fault)
            pos = block_stop if fault is None else _resume_at(buffer, pos, block_stop)
        base += len(buffer)
        buffer, pos = fetch(), 0


def _whole_chunks(buffer: bytes, pos: int, block_stop: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """The whole chunks of a block from `pos` on, and where they end."""
    chunks: list[tuple[int, int, bytes]] = []
    unpack = _CHUNK.unpack_from
    crc_of_type = _CRC_OF_TYPE
    last_header = block_stop - CHUNK_HEADER_BYTES
    while pos <= last_header:
        crc, length, chunk_type = unpack(buffer, pos)
        data = buffer[pos + CHUNK_HEADER_BYTES : pos + CHUNK_HEADER_BYTES + length]
        stop = pos + CHUNK_HEADER_BYTES + length
        if stop > block_stop or crc32(data, crc_of_type[chunk_type]) != crc or not _FULL <= chunk_type <= _LAST:
            break
        chunks.append((chunk_type, pos, data))
        pos = stop
    return chunks, pos


def _diagnose(buffer: bytes, pos: int, block_stop: int, room: int) -> Cause | None:
    """Why there is no whole chunk at `pos`; None where there need not be one. `room` is the block's full end."""
    if room - pos < CHUNK_HEADER_BYTES or pos == block_stop:
        return None
    if not any(buffer[pos : min(pos + CHUNK_HEADER_BYTES, block_stop)]):
        return Cause.ZEROS
    if block_stop - pos < CHUNK_HEADER_BYTES:
        return Cause.INCOMPLETE
    crc, length, _ = _unpack_chunk(buffer, pos)
    stop = pos + CHUNK_HEADER_BYTES + length
    if stop > room:
        return Cause.FRAMING
    if stop > block_stop:
        return Cause.INCOMPLETE
    if crc32(buffer[pos + 6 : stop]) == crc:
        return Cause.FRAMING
    # After a power loss, what was never written reads as zeros: the end of this chunk and all that follows.
    behind = buffer[stop : min(stop + 8, block_stop)]
    zeros = buffer[max(pos, stop - 8) : stop] == bytes(8) or (buffer[stop - 1] == 0 and behind and not any(behind))
    return Cause.ZEROS if zeros else Cause.CHECKSUM


def _resume_at(buffer: bytes, pos: int, block_stop: int) -> int:
    """Where to go on after the fault at `pos`: the next whole chunk of the block, else the block's end.

    First the length that stands at `pos` is believed: then damage inside a chunk costs this chunk alone, and nothing
    inside its data is ever mistaken for a chunk. Only when that fails every place is tried.
    """
    if pos + CHUNK_HEADER_BYTES <= block_stop:
        _, length, _ = _unpack_chunk(buffer, pos)
        behind = pos + CHUNK_HEADER_BYTES + length
        if _is_whole_chunk(buffer, behind, block_stop):
            return behind
    spent_bytes = 0
    for match in _RECORD_START.finditer(buffer, pos + CHUNK_HEADER_BYTES, block_stop):
        start = match.start() - CHUNK_HEADER_BYTES + 1
        length = buffer[start + 4] | buffer[start + 5] << 8
        if start + CHUNK_HEADER_BYTES + length > block_stop:
            continue
        if _is_whole_chunk(buffer, start, block_stop):
            return start
        spent_bytes += length
        if spent_bytes > _PROBE_BYTES_PER_BLOCK:
            break
    return block_stop


def _unpack_chunk(buffer: bytes, pos: int) -> tuple[int, int, int]:
    crc, length, chunk_type = _CHUNK.unpack_from(buffer, pos)
    return crc, length, chunk_type


def _is_whole_chunk(buffer: bytes, pos: int, block_stop: int) -> bool:
    if pos + CHUNK_HEADER_BYTES > block_stop:
        return False
    crc, length, chunk_type = _unpack_chunk(buffer, pos)
    stop = pos + CHUNK_HEADER_BYTES + length
    return stop <= block_stop and _FULL <= chunk_type <= _LAST and crc32(buffer[pos + 6 : stop]) == crc


class LogWriter:
    """Writes records into a new log. A path must not exist yet; a file object has to be empty.

    Durable only when the caller makes it so: fsync of the file, then of its directory.
    """

    def __init__(self, target: Path | str | BinaryIO) -> None:
        self._opened = Path(target).open("xb") if isinstance(target, (str, Path)) else None  # noqa: SIM115
        self._file: BinaryIO = self._opened or target  # type: ignore[assignment]
        self._file.write(HEADER)
        self.size_bytes = len(HEADER)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush; a file that was opened here is closed too."""
        self._file.flush()
        if self._opened:
            self._opened.close()

    def write(self, record: Record | bytes) -> None:
        data = record.payload if isinstance(record, Record) else record
        pos, first, last = 0, True, False
        while not last:
            room = BLOCK_BYTES - self.size_bytes % BLOCK_BYTES
            if room < CHUNK_HEADER_BYTES:
                self._put(bytes(room))
                room = BLOCK_BYTES
            length = min(room - CHUNK_HEADER_BYTES, len(data) - pos)
            last = pos + length == len(data)
            chunk_type = (_FULL if last else _FIRST) if first else (_LAST if last else _MIDDLE)
            body = bytes((chunk_type,)) + data[pos : pos + length]
            self._put(_CHUNK_START.pack(crc32(body), length) + body)
            pos, first = pos + length, False

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.size_bytes += len(data)
