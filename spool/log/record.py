"""What a record is: its kind, its sequence number, its bytes.

Guarantees: `classify` looks at the outermost layer only and at all of it, so that what it accepts is at least a
protobuf message at the top; kinds that this version does not know keep their field number.

Fails with `WireError` (payload is no protobuf message).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from wandb_spool.spool.log.wire import (
    LENGTH,
    WireError,
    fields,
    integer,
    integer_field,
    length_field,
    messages,
    set_fields,
)

NUM_FIELD = 1
NUM_TAG = 0x08


class RecordKind(IntEnum):
    """The field number of the record's one content field."""

    NONE = 0
    """No content at all."""
    HISTORY = 2
    SUMMARY = 3
    OUTPUT = 4
    CONFIG = 5
    FILES = 6
    STATS = 7
    ARTIFACT = 8
    TBRECORD = 9
    ALERT = 10
    TELEMETRY = 11
    METRIC = 12
    OUTPUT_RAW = 13
    RUN = 17
    EXIT = 18
    FINAL = 20
    HEADER = 21
    FOOTER = 22
    PREEMPTING = 23
    NOOP_LINK_ARTIFACT = 24
    USE_ARTIFACT = 25
    ENVIRONMENT = 26
    OUTPUT_LOGGER = 27
    REQUEST = 100


_BESIDES = frozenset({NUM_FIELD, 16, 19, 200})  # num, control, uuid, _info: in every record, whatever its kind
_KINDS: tuple[RecordKind | int, ...] = tuple(
    RecordKind(number) if number in RecordKind._value2member_map_ else number for number in range(128)
)


class Record(NamedTuple):
    """One record of a log. `offset` is the place of its first chunk in the file."""

    kind: RecordKind | int
    num: int
    payload: bytes
    offset: int
    content_at: int = 0
    """Where its content begins, when it goes on to the end of the payload; 0 where nobody looked yet."""

    def with_payload(self, payload: bytes) -> Record:
        kind, num, content_at = classify(payload)
        return Record(kind, num, payload, self.offset, content_at)

    def with_num(self, num: int) -> Record:
        return self.with_payload(set_fields(self.payload, {NUM_FIELD: integer_field(NUM_FIELD, num)}))


def classify(payload: bytes) -> tuple[RecordKind | int, int, int]:
    """Kind, sequence number and `content_at` of a record."""
    # The common shape, `num` and then one small content field up to the end, decides how fast a log is scanned.
    size = len(payload)
    if size > 8 and payload[0] == NUM_TAG:
        num, pos = payload[1], 2
        if num >= 0x80:
            num, pos, shift = num & 0x7F, 3, 7
            byte = payload[2]
            while byte >= 0x80 and pos < 6:
                num |= (byte & 0x7F) << shift
                shift += 7
                byte = payload[pos]
                pos += 1
            num |= byte << shift
            if byte >= 0x80:
                return _classify_slowly(payload)
        tag = payload[pos]
        if 0x0A < tag < 0x80 and tag & 7 == LENGTH and pos + 3 < size:
            length = payload[pos + 1]
            pos += 2
            if length >= 0x80:
                byte = payload[pos]
                length = length & 0x7F | (byte & 0x7F) << 7
                pos += 1
                if byte >= 0x80:
                    return _classify_slowly(payload)
            if pos + length == size:
                return _KINDS[tag >> 3], num, pos
    return _classify_slowly(payload)


def _classify_slowly(payload: bytes) -> tuple[RecordKind | int, int, int]:
    num = kind = 0
    for field in fields(payload, 0, len(payload)):
        if field.number == NUM_FIELD:
            num = integer(payload, field)
        elif field.number not in _BESIDES:
            kind = field.number
    return (_KINDS[kind] if kind < 128 else kind), num, 0


def content(record: Record) -> tuple[int, int]:
    """Where the record's content message lies in its payload."""
    payload, kind = record.payload, int(record.kind)
    if record.content_at:
        return record.content_at, len(payload)
    if 0 < kind < 16:
        places = messages(payload, 0, len(payload), kind)
        if places:
            return places[-2], places[-1]
    for field in reversed(list(fields(payload, 0, len(payload)))):
        if field.number == kind and field.wire_type == LENGTH:
            return field.start, field.end
    raise WireError("record without content")


def with_content(record: Record, message: bytes) -> Record:
    """The record with another content message; all its other fields stay as they are."""
    kind = int(record.kind)
    return record.with_payload(set_fields(record.payload, {kind: length_field(kind, message)}))
