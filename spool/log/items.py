"""Keys and values: the item messages that history, summary, config and stats have in common.

Guarantees: `value_json` and typed values, `key` and `nested_key` are all understood. A value that is no JSON, is
larger than `MAX_JSON_BYTES` or is nested deeper than a parser allows stands as its own text: it is never an exception
and never fills memory.

Fails with `WireError` (bytes are no item).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from json.scanner import make_scanner

from wandb_spool.spool.log.wire import Field, double, fields, integer, text, zigzag

MAX_JSON_BYTES = 16 * 1024 * 1024

_ITEM_TAG = 0x0A  # field 1, length-delimited
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


def parse_all(texts: Collection[bytes]) -> list[object]:
    """`parse_json` of each; one call for all of them where no text has a comma."""
    return parse_joined(join_texts(texts), len(texts))


def join_texts(texts: Collection[bytes]) -> bytes | Collection[bytes]:
    """The texts with commas between them, where they can be told apart again: where none of them has a comma."""
    joined = b",".join(texts)
    return joined if joined.count(b",") == len(texts) - 1 else texts


def parse_joined(texts: bytes | Collection[bytes], count: int) -> list[object]:
    """`parse_json` of each of `count` texts from `join_texts`.

    With as many commas as separators and as many values as texts, every comma is a separator: then each text is one
    value, and none begins what another one ends.
    """
    if isinstance(texts, bytes):
        try:
            plain = "[" + str(texts, "utf-8") + "]"
            found, end = _scan(plain, 0)
            if end == len(plain) and len(found) == count:
                return list(found)
        except (StopIteration, ValueError, RecursionError):
            pass  # one of them is no JSON; which one is found out one by one
        texts = texts.split(b",")
    return [parse_json(text) for text in texts]


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


_VALUE_TAG = b"\x82\x01"  # field 16, length-delimited: what stands between a key and its value

# What stands before a value (the item's tag and size, and its key) says how long the value is. So a head, once read,
# gives the encoded key, the first byte of the value's length, and where the value begins and ends. A program logs the
# same keys with values of a few lengths.
_Head = tuple[bytes, int, int, int]
_heads: dict[bytes, _Head] = {}
_MAX_HEADS = 16_384
_MAX_PLAIN_BYTES = 2 * 1024 * 1024  # beyond it the cuts would take memory: the careful walk takes none
_MAX_HEAD_BYTES = 1024


def plain_items(buf: bytes, start: int, end: int) -> tuple[dict[bytes, bytes], int]:
    """The items of the one common shape at the beginning of a message: the JSON text of each by its encoded key, and
    where they end. An encoded key is the same for the same key; `key_path` reads it. What is left is for `split_item`.

    This loop decides how fast a whole history is read. It cuts the message at every value's tag and believes no cut:
    each value has the length that its head says, so a tag inside a value or a key ends the plain items.
    """
    if end - start > _MAX_PLAIN_BYTES:
        return {}, start
    found: dict[bytes, bytes] = {}
    heads = _heads
    parts = buf[start:end].split(_VALUE_TAG)
    head = parts[0]
    del parts[0]
    done = 0
    for part in parts:
        known = heads.get(head) or _learn(head)
        if known is None:
            break
        key, low, begin, stop = known
        if len(part) < stop or part[0] != low or (begin == 2 and part[1] != (stop - 2) >> 7):
            break
        found[key] = part[begin:stop]
        head = part[stop:]
        done += 1
    return found, end - len(head) - sum(len(part) + len(_VALUE_TAG) for part in parts[done:])


def _learn(head: bytes) -> _Head | None:
    """What stands before a value, read and remembered; None when it is no short plain head."""
    if not 2 <= len(head) <= _MAX_HEAD_BYTES or head[0] != _ITEM_TAG:
        return None
    size, start = head[1], 2
    if size >= 0x80:
        if len(head) == 2 or head[2] >= 0x80:
            return None
        size, start = size + (head[2] << 7) - 0x80, 3
    key = _plain_key(head[start:])
    rest = size - len(head) + start - len(_VALUE_TAG)  # the value and its length
    begin = 1 if rest <= 0x80 else 2
    length = rest - begin
    if key is None or length < 0 or (begin == 2 and length < 0x80):
        return None
    if len(_heads) >= _MAX_HEADS:
        _heads.clear()
    found = _heads[head] = (key, length & 0x7F | (begin - 1) << 7, begin, rest)
    return found


def _plain_key(key: bytes) -> bytes | None:
    """`nested_key` fields as they are, a lone `key` as a `nested_key`: one path, one encoding. None for other keys."""
    if len(key) > 1 and key[0] == 0x0A and key[1] < 0x80 and len(key) == 2 + key[1]:
        return b"\x12" + key[1:]
    pos = 0
    while pos + 1 < len(key) and key[pos] == 0x12 and key[pos + 1] < 0x80:
        pos += 2 + key[pos + 1]
    return key if pos == len(key) > 0 else None


def key_path(encoded_key: bytes) -> tuple[str, ...]:
    """The parts of a key that `plain_items` gave."""
    return _split_any_item(encoded_key, 0, len(encoded_key), False)[0]


@lru_cache(maxsize=_MAX_HEADS)
def key_name(encoded_key: bytes) -> str:
    """The key as one text, its parts joined by dots."""
    return ".".join(key_path(encoded_key))


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
