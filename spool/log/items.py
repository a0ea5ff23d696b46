"""Keys and values: the item messages that history, summary, config and stats have in common.

Guarantees: `value_json` and typed values, `key` and `nested_key` are all understood. A value that is no JSON, is
larger than `MAX_JSON_BYTES` or is nested deeper than a parser allows stands as its own text: it is never an exception
and never fills memory.

Fails with `WireError` (bytes are no item).
"""

from __future__ import annotations

import json
from json.scanner import make_scanner

from wandb_spool.spool.log.wire import Field, double, fields, integer, text, zigzag

MAX_JSON_BYTES = 16 * 1024 * 1024

_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_NONE, _BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON = 3, 4, 5, 6, 7, 8

_decoder = json.JSONDecoder()
_scan = make_scanner(_decoder)  # type: ignore[arg-type]  # the stub misses the factory's signature


Item = tuple[tuple[str, ...], "bytes | None", "Field | None"]
"""The parts of the key; the value as JSON text, as it stands in the record; or else the field that holds the value.
A plain tuple, because logs consist of these."""


def parse_json(value: bytes | str) -> object:
    """The value of a JSON text; the text itself when it is none."""
    plain = value if isinstance(value, str) else str(value, "utf-8", "replace")
    if len(plain) > MAX_JSON_BYTES:
        return plain
    try:
        found, end = _scan(plain, 0)
        return found if end == len(plain) else _decoder.decode(plain)
    except StopIteration:
        return _parse_with_white_space(plain)
    except (ValueError, RecursionError):
        return plain


def _parse_with_white_space(plain: str) -> object:
    try:
        return _decoder.decode(plain)
    except (ValueError, RecursionError):
        return plain


def split_item(buf: bytes, start: int, end: int, *, typed: bool = False) -> Item:
    """Key and undecoded value of an item. `typed`: the fields 3 to 8 may carry the value, as in history."""
    # Nearly every item is one short key, plain or "nested", and one short JSON text.
    if end - start > 5 and buf[start] in (0x0A, 0x12) and buf[start + 1] < 0x80:
        key_stop = start + 2 + buf[start + 1]
        if key_stop + 3 <= end and buf[key_stop] == 0x82 and buf[key_stop + 1] == 1:
            size = buf[key_stop + 2]
            if size < 0x80 and key_stop + 3 + size == end:
                return (str(buf[start + 2 : key_stop], "utf-8", "replace"),), buf[key_stop + 3 : end], None
    return _split_any_item(buf, start, end, typed)


def _split_any_item(buf: bytes, start: int, end: int, typed: bool) -> Item:
    path: list[str] = []
    key = ""
    json_text: bytes | None = None
    value: Field | None = None
    for field in fields(buf, start, end):
        if field.number == _KEY:
            key = text(buf, field)
        elif field.number == _NESTED_KEY:
            path.append(text(buf, field))
        elif field.number == _VALUE_JSON:
            text(buf, field)
            json_text = buf[field.start : field.end]
        elif typed and _NONE <= field.number <= _JSON:
            value = field
    return tuple(path) or (key,), json_text, value


def plain_items(buf: bytes, start: int, end: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """The items of the one common shape at the beginning of a message: encoded key and JSON text of each, and where
    they end. An encoded key is the same for the same key; `key_path` reads it. What is left is for `split_item`.

    This loop decides how fast a whole history is read: it makes one pair an item, and nothing else.
    """
    items: list[tuple[bytes, bytes]] = []
    append = items.append
    pos = start
    try:
        while pos < end and buf[pos] == 0x0A:
            size = buf[pos + 1]
            key = pos + 2
            if size >= 0x80:
                size += (buf[key] << 7) - 0x80
                if size >= 0x4000:
                    break
                key += 1
            stop = key + size
            key_stop = key
            tag = buf[key]
            while tag == 0x12 or tag == 0x0A:
                length = buf[key_stop + 1]
                if length >= 0x80:
                    return items, pos
                key_stop += 2 + length
                tag = buf[key_stop]
            if tag != 0x82 or buf[key_stop + 1] != 1:
                break
            value = key_stop + 3
            length = buf[key_stop + 2]
            if length >= 0x80:
                length += (buf[value] << 7) - 0x80
                value += 1
            if value + length != stop or stop > end:
                break
            append((buf[key:key_stop], buf[value:stop]))
            pos = stop
    except IndexError:
        pass  # cut off: the careful walk says what is wrong
    return items, pos


def key_path(encoded_key: bytes) -> tuple[str, ...]:
    """The parts of a key that `plain_items` gave."""
    return _split_any_item(encoded_key, 0, len(encoded_key), False)[0]


def item_value(buf: bytes, json_text: bytes | None, typed: Field | None) -> object:
    """The decoded value of an item of `buf`."""
    if json_text is not None:
        return parse_json(json_text)
    return None if typed is None else _typed_value(buf, typed)


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


def read_step(buf: bytes, start: int, end: int) -> int:
    """The `num` of a history step message."""
    if start + 2 <= end <= start + 4 and buf[start] == 0x08 and buf[end - 1] < 0x80:  # nearly every step
        step = shift = 0
        for byte in buf[start + 1 : end]:
            if byte < 0x80 and shift < 7 * (end - start - 2):
                break
            step |= (byte & 0x7F) << shift
            shift += 7
        else:
            return step
    for field in fields(buf, start, end):
        if field.number == 1:
            return integer(buf, field)
    return 0
