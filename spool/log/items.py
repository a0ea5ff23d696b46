"""Keys and values: the item messages that history, summary, config and stats have in common.

Guarantees: `value_json` and typed values, `key` and `nested_key` are all understood. A value that is no JSON, is
larger than `MAX_JSON_BYTES` or is nested deeper than a parser allows stands as its own text: it is never an exception
and never fills memory.

Fails with `WireError` (bytes are no item).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from wandb_spool.spool.log.wire import (
    Field,
    WireError,
    double,
    fields,
    integer,
    require_message,
    text,
    zigzag,
)

MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_ITEMS = 1_000_000
"""More items in one record are refused: they would fill memory, and no program logs them."""

_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_NONE, _BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON = 3, 4, 5, 6, 7, 8

_decode = json.JSONDecoder().decode


class Item(NamedTuple):
    path: tuple[str, ...]
    """The parts of the key."""
    value: object

    @property
    def key(self) -> str:
        return self.path[0] if len(self.path) == 1 else ".".join(self.path)


def parse_json(value: str) -> object:
    """The value of a JSON text; the text itself when it is none."""
    if len(value) > MAX_JSON_BYTES:
        return value
    try:
        return _decode(value)
    except (ValueError, RecursionError):
        return value


def read_item(buf: bytes, start: int, end: int, *, typed: bool = True) -> Item:
    """One item. `typed`: the fields 3 to 8 carry a value, as in history."""
    path: list[str] = []
    key = ""
    value: object = None
    pos = start
    while pos < end:
        tag = buf[pos]
        # The three fields that nearly every item consists of, with lengths below 128.
        if tag == 0x12 and pos + 1 < end and buf[pos + 1] < 0x80:
            stop = pos + 2 + buf[pos + 1]
            path.append(str(buf[pos + 2 : stop], "utf-8", "replace"))
        elif tag == 0x0A and pos + 1 < end and buf[pos + 1] < 0x80:
            stop = pos + 2 + buf[pos + 1]
            key = str(buf[pos + 2 : stop], "utf-8", "replace")
        elif tag == 0x82 and pos + 2 < end and buf[pos + 1] == 1 and buf[pos + 2] < 0x80:
            stop = pos + 3 + buf[pos + 2]
            value = parse_json(str(buf[pos + 3 : stop], "utf-8", "replace"))
        else:
            field = next(fields(buf, pos, end))
            stop = field.end
            if field.number == _KEY:
                key = text(buf, field)
            elif field.number == _NESTED_KEY:
                path.append(text(buf, field))
            elif field.number == _VALUE_JSON:
                value = parse_json(text(buf, field))
            elif typed and _NONE <= field.number <= _JSON:
                value = _typed_value(buf, field)
        if stop > end:
            raise WireError("item ends behind its record")
        pos = stop
    return Item(tuple(path) or (key,), value)


def _typed_value(buf: bytes, field: Field) -> object:
    number = field.number
    if number == _NONE:
        return None
    if number == _BOOLEAN:
        return bool(integer(buf, field))
    if number == _INTEGER:
        return zigzag(buf, field)
    if number == _NUMBER:
        return double(buf, field)
    return text(buf, field) if number == _TEXT else parse_json(text(buf, field))


def read_items(buf: bytes, start: int, end: int, number: int, *, typed: bool = False) -> Iterator[Item]:
    """The items in the repeated field `number` of the message `buf[start:end]`."""
    count = 0
    for field in fields(buf, start, end):
        if field.number == number:
            count += 1
            if count > MAX_ITEMS:
                raise WireError("too many items in one record")
            require_message(field)
            yield read_item(buf, field.start, field.end, typed=typed)


def read_step(buf: bytes, start: int, end: int) -> int:
    """The `num` of a history step message."""
    for field in fields(buf, start, end):
        if field.number == 1:
            return integer(buf, field)
    return 0
