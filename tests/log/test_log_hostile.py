"""Logs that somebody made to hurt: they cost neither memory nor time, and raise nothing."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wandb_spool.spool.log import (
    Cause,
    EndingKind,
    LogWriter,
    RecordKind,
    artifacts,
    chain,
    facts,
    keep_steps_in,
    move_artifacts,
    override_run,
    read_records,
    renumber,
    rewrite,
    rows,
    set_resume,
    value_digest,
)
from wandb_spool.spool.log.framing import BLOCK_BYTES, HEADER
from wandb_spool.spool.log.wire import integer_field, length_field, varint_bytes

MIB = 1024 * 1024


def read_every_way(log: bytes) -> None:
    """All that this package does with a log that it did not write."""
    for salvage in (False, True):
        list(read_records(io.BytesIO(log), salvage=salvage, max_record_bytes=4 * MIB))
        list(rows(io.BytesIO(log), salvage=salvage))
        facts(io.BytesIO(log), salvage=salvage)
        for artifact in artifacts(io.BytesIO(log), salvage=salvage):
            list(artifact.entries())
        transform = chain(
            set_resume(),
            override_run(entity="e", tags=["t"]),
            keep_steps_in([range(3)]),
            move_artifacts(lambda path: path + "x"),
            renumber(),
        )
        target = io.BytesIO()
        rewrite(io.BytesIO(log), target, transform, salvage=salvage)
        again = read_records(io.BytesIO(target.getvalue()))
        list(again)
        assert again.ending.kind in (EndingKind.CLEAN, EndingKind.FINISHED, EndingKind.VOID)


def log_of(*payloads: bytes) -> bytes:
    target = io.BytesIO()
    with LogWriter(target) as writer:
        for payload in payloads:
            writer.write(payload)
    return target.getvalue()


def record(kind: int, content: bytes, num: int = 1) -> bytes:
    return integer_field(1, num) + length_field(kind, content)


def item(key: bytes, value: bytes) -> bytes:
    return length_field(1, length_field(2, key) + length_field(16, value))


RUN = record(RecordKind.RUN, length_field(1, b"id"))
STEP = length_field(2, integer_field(1, 1))

kinds = st.sampled_from([int(kind) for kind in RecordKind if kind])
messages = st.recursive(
    st.binary(max_size=30),
    lambda inner: st.lists(st.tuples(st.integers(1, 26), inner), max_size=5).map(
        lambda parts: b"".join(length_field(number, value) for number, value in parts)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
@example(HEADER)
def test_arbitrary_bytes_are_a_result(data: bytes) -> None:
    read_every_way(data)
    read_every_way(HEADER + data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(kinds, messages), max_size=6))
def test_whole_records_with_arbitrary_content_are_a_result(contents: list[tuple[int, bytes]]) -> None:
    read_every_way(log_of(RUN, *(record(kind, content) for kind, content in contents)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_whole_chunks_with_arbitrary_payloads_are_a_result(payloads: list[bytes]) -> None:
    read_every_way(log_of(RUN, *payloads))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 255]), st.binary(max_size=20)), max_size=12))
def test_chunks_in_any_order_are_a_result(chunks: list[tuple[int, bytes]]) -> None:
    log = bytearray(HEADER)
    for chunk_type, data in chunks:
        body = bytes((chunk_type,)) + data
        log += struct.pack("<IH", crc32(body), len(data)) + body
    read_every_way(bytes(log))


def deep_json(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


HOSTILE: dict[str, Callable[[], bytes]] = {
    "length beyond the message": lambda: b"\x08\x01\x12\xff\xff\xff\xff\x7f",
    "length beyond 64 bits": lambda: b"\x08\x01\x12" + b"\xff" * 10,
    "varint without an end": lambda: b"\x08" + b"\xff" * 5000,
    "field number zero": lambda: b"\x08\x01\x02\x00",
    "groups in groups": lambda: b"\x13" * 50_000,
    "message in message": lambda: nested_messages(20_000),
    "list in list": lambda: record(2, item(b"a", b"[" * 100_000 + b"]" * 100_000) + STEP),
    "lists that a parser takes": lambda: record(2, item(b"a", b"[" * 900 + b"]" * 900) + STEP),
    "object in object": lambda: record(2, item(b"a", deep_json(900)) + STEP),
    "objects that no parser takes": lambda: record(2, item(b"a", deep_json(100_000)) + STEP),
    "a number of very many digits": lambda: record(2, item(b"a", b"1" * 100_000) + STEP),
    "a number beyond doubles": lambda: record(2, item(b"a", b"1" * 4000) + item(b"b", b"1e999999") + STEP),
    "a key of very many parts": lambda: record(2, length_field(1, length_field(2, b"k") * 100_000) + STEP),
    "very many keys": lambda: record(2, b"".join(item(b"%d" % n, b"1") for n in range(50_000)) + STEP),
    "empty items": lambda: record(2, b"\x0a\x00" * 200_000 + STEP),
    "a long key above many": lambda: record(
        2, item(b"a", b'{"' + b"k" * MIB + b'":{' + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}}") + STEP
    ),
    "an empty list in an empty list": lambda: record(2, item(b"a", b"[" + b"[]," * 50_000 + b"[]]") + STEP),
    "no text": lambda: record(2, item(b"\xff\xfe", b'"\xff\xfe"') + STEP),
    "half a surrogate pair": lambda: record(2, item(b"a", b'"\\ud800"') + item(b"b\xed\xa0\x80", b"1") + STEP),
    "a step that is no number": lambda: record(2, item(b"_step", b"NaN") + item(b"_step", b"[1]")),
    "a huge step": lambda: record(2, item(b"_step", b"1e300")),
    "a negative step": lambda: record(2, length_field(2, varint_bytes(8) + varint_bytes(-5))),
    "a summary of many keys": lambda: record(3, b"".join(item(b"%d" % n, b"1") for n in range(30_000))),
    "a config that removes itself": lambda: record(5, item(b"a", b"1") + length_field(2, length_field(1, b"a"))),
    "tags without end": lambda: record(17, length_field(10, b"t") * 30_000),
    "files without end": lambda: record(
        6, b"".join(length_field(1, length_field(1, b"%d" % n)) for n in range(30_000))
    ),
    "a run inside a number": lambda: b"\x08\x01\x88\x01\x05",
    "content that is a number": lambda: b"\x08\x01\x10\x05",
    "an exit code of ten bytes": lambda: record(18, b"\x08" + b"\xff" * 9 + b"\x01"),
    "a time beyond the calendar": lambda: record(7, length_field(2, b"\x08" + b"\xff" * 9 + b"\x01")),
}


def nested_messages(depth: int) -> bytes:
    message = b""
    for _ in range(depth):
        message = b"\x0a" + varint_bytes(len(message)) + message
        if len(message) > 200_000:
            break
    return record(8, message)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_a_result_within_bounded_memory(name: str) -> None:
    log = log_of(RUN, HOSTILE[name](), record(RecordKind.EXIT, b"", 3))
    tracemalloc.start()
    try:
        facts(io.BytesIO(log))
        list(rows(io.BytesIO(log)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 * MIB
    read_every_way(log)


def test_a_record_above_the_limit_is_damage_and_costs_no_more_than_the_limit() -> None:
    big = record(RecordKind.OUTPUT_RAW, bytes(64 * MIB), 2)
    log = log_of(RUN, big, record(RecordKind.EXIT, b"", 3))
    tracemalloc.start()
    try:
        reader = read_records(io.BytesIO(log), salvage=True, max_record_bytes=8 * MIB)
        seen = [record.num for record in reader]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 * MIB
    assert seen == [1, 3]
    assert [damage.cause for damage in reader.damage] == [Cause.TOO_LARGE]
    plain = read_records(io.BytesIO(log), max_record_bytes=8 * MIB)
    assert [record.num for record in plain] == [1]
    assert (plain.ending.kind, plain.ending.cause) == (EndingKind.DAMAGED, Cause.TOO_LARGE)


class LongLog(io.RawIOBase):
    """A log of many megabytes that is nowhere as a whole."""

    def __init__(self, block_count: int) -> None:
        line = length_field(2, integer_field(1, 1_700_000_000)) + length_field(3, b"x" * 900)
        self._block = log_of(*(record(RecordKind.OUTPUT_RAW, line, num) for num in range(35)))[7:]
        self._waiting = block_count
        self._first = True

    def read(self, size: int = -1) -> bytes:
        if self._first:
            self._first = False
            return (HEADER + log_of(RUN)[7:]).ljust(BLOCK_BYTES, b"\0")
        self._waiting -= 1
        return self._block.ljust(BLOCK_BYTES, b"\0") if self._waiting >= 0 else b""


def test_memory_does_not_grow_with_the_log() -> None:
    tracemalloc.start()
    try:
        seen = facts(LongLog(1000), salvage=True)  # type: ignore[arg-type]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen.console_lines == 35_000
    assert peak_bytes < 8 * MIB


def test_a_block_made_to_be_searched_is_given_up_in_time() -> None:
    # Every third byte promises a chunk of nearly a block: searched without a limit, one block costs 100 MB of CRC.
    block = (b"\x00\x01\x40" * BLOCK_BYTES)[:BLOCK_BYTES]
    log = log_of(RUN) + block * 8
    reader = read_records(io.BytesIO(log), salvage=True)
    assert [record.kind for record in reader] == [RecordKind.RUN]


def test_a_digest_is_there_for_whatever_a_parser_returns() -> None:
    value: object = 1
    for _ in range(5000):
        value = [value]
    assert len(value_digest({"a": value})) == 32
    for _ in range(5000):
        value = {"k": value}
    assert len(value_digest({"a": value, "b": 10**5000, "c": "\ud800"})) == 32
