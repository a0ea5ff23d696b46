"""The protobuf wire format, as far as a `.wandb` record needs it.

Guarantees: fields are found by number and wire type only, so fields and record kinds that we do not know pass
through untouched; nothing is copied that the caller does not ask for; work is linear in the size of the message
and uses no recursion, so hostile nesting costs nothing.

Fails with `WireError` (bytes that are no protobuf message). Groups, which wandb never wrote, count as such.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

VARINT = 0
FIXED64 = 1
LENGTH = 2
FIXED32 = 5

_MAX_VARINT_BYTES = 10
_MAX_FIELD_NUMBER = (1 << 29) - 1
_MAX_PLACES = 2 * 1_000_000  # more items in one record would fill memory, and no program logs them
_MASK64 = (1 << 64) - 1
_SIGN64 = 1 << 63


class WireError(ValueError):
    """These bytes are not a protobuf message."""


class Field(NamedTuple):
    """One field of a message: `buf[begin:end]` is all of it, `buf[start:end]` its value."""

    number: int
    wire_type: int
    begin: int
    start: int
    end: int


def read_varint(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """The unsigned integer at `pos`, and the position behind it."""
    result = shift = 0
    stop = min(end, pos + _MAX_VARINT_BYTES)
    while pos < stop:
        byte = buf[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & _MASK64, pos
        shift += 7
    raise WireError("unfinished varint")


def fields(buf: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message `buf[start:end]`, in order."""
    pos = start
    while pos < end:
        begin = pos
        tag, pos = read_varint(buf, pos, end)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise WireError("field number out of range")
        value = pos
        if wire_type == LENGTH:
            size, value = read_varint(buf, pos, end)
            pos = value + size
        elif wire_type == VARINT:
            _, pos = read_varint(buf, pos, end)
        elif wire_type == FIXED64:
            pos += 8
        elif wire_type == FIXED32:
            pos += 4
        else:
            raise WireError("unknown wire type")
        if pos > end:
            raise WireError("field ends behind its message")
        yield Field(number, wire_type, begin, value, pos)


def messages(buf: bytes, start: int, end: int, number: int) -> list[int]:
    """Where the length-delimited fields `number` (below 16) begin and end: start, end, start, end …

    The same walk as `fields`, made for the long lists of small items of which logs consist.
    """
    places: list[int] = []
    wanted = number << 3 | LENGTH
    pos = start
    while pos < end:
        tag = buf[pos]
        # One byte of tag, one or two bytes of length: nearly every field. What is cut off fails the test below.
        if tag & 0x87 == LENGTH and tag > 7 and pos + 3 <= end:
            size = buf[pos + 1]
            pos += 2
            if size >= 0x80:
                high = buf[pos]
                if high >= 0x80:
                    size, pos = read_varint(buf, pos - 1, end)
                else:
                    size += (high << 7) - 0x80
                    pos += 1
            stop = pos + size
            if stop > end:
                raise WireError("field ends behind its message")
            if tag == wanted:
                if len(places) > _MAX_PLACES:
                    raise WireError("too many items in one record")
                places += (pos, stop)
            pos = stop
        elif tag & 0x87 == VARINT and tag > 7 and pos + 2 <= end:
            _, pos = read_varint(buf, pos + 1, end)
            if tag >> 3 == number:
                raise WireError("message expected")
        else:
            field = next(fields(buf, pos, end))
            if field.number == number and field.wire_type != LENGTH:
                raise WireError("message expected")
            if field.number == number:
                places += (field.start, field.end)
            pos = field.end
    return places


def integer(buf: bytes, field: Field) -> int:
    """A varint field read as int64 (or bool, enum, int32)."""
    if field.wire_type != VARINT:
        raise WireError("integer expected")
    value, _ = read_varint(buf, field.start, field.end)
    return value - (1 << 64) if value & _SIGN64 else value


def zigzag(buf: bytes, field: Field) -> int:
    """A varint field read as sint64."""
    value = integer(buf, field) & _MASK64
    return (value >> 1) ^ -(value & 1)


def double(buf: bytes, field: Field) -> float:
    if field.wire_type != FIXED64:
        raise WireError("double expected")
    return float(struct.unpack_from("<d", buf, field.start)[0])


def text(buf: bytes, field: Field) -> str:
    """A string field. Invalid UTF-8 is kept readable, with replacement characters."""
    if field.wire_type != LENGTH:
        raise WireError("string expected")
    return str(buf[field.start : field.end], "utf-8", "replace")


def require_message(field: Field) -> Field:
    if field.wire_type != LENGTH:
        raise WireError("message expected")
    return field


def varint_bytes(value: int) -> bytes:
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer_field(number: int, value: int) -> bytes:
    """An integer field; zero is the absence of the field, as proto3 writes it."""
    return varint_bytes(number << 3 | VARINT) + varint_bytes(value) if value else b""


def length_field(number: int, value: bytes) -> bytes:
    return varint_bytes(number << 3 | LENGTH) + varint_bytes(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """A string field; the empty string is the absence of the field."""
    return length_field(number, value.encode("utf-8", "replace")) if value else b""


def set_fields(message: bytes, new: dict[int, bytes]) -> bytes:
    """`message` with the encoded fields `new` in place of those that have the same number.

    Everything else keeps its bytes and its order: wandb does not write fields in the order of their numbers. A new
    field stands where the first old one stood, else before the first field with a higher number.
    """
    old = list(fields(message, 0, len(message)))
    present = {field.number for field in old}
    waiting = dict(sorted(new.items()))
    parts: list[bytes] = []
    for field in old:
        for number in [number for number in waiting if number == field.number or number < field.number]:
            if number == field.number or number not in present:
                parts.append(waiting.pop(number))
        if field.number not in new:
            parts.append(message[field.begin : field.end])
    return b"".join((*parts, *waiting.values()))


def replace_fields(message: bytes, number: int, new_value: Callable[[bytes], bytes]) -> bytes:
    """`message` with the value of every length-delimited field `number` passed through `new_value`."""
    parts: list[bytes] = []
    for field in fields(message, 0, len(message)):
        if field.number == number and field.wire_type == LENGTH:
            parts.append(length_field(number, new_value(message[field.start : field.end])))
        else:
            parts.append(message[field.begin : field.end])
    return b"".join(parts)
