"""The value digest: what makes two rows the same row.

`value_digest(values)` is the SHA-256 of one canonical JSON text, the same whether the row comes from a log (items
with `key` or `nested_key`, JSON or typed values) or from a server (a JSON object). The canonical text is built so:

1. Objects are un-nested: the members of an object become members of its parent under the joined key `parent.child`,
   recursively. So `{"a": {"b": 1}}`, `{"a.b": 1}` and the nested key `["a", "b"]` are one.
2. The top-level keys `_step`, `_runtime` and `_timestamp` are left out.
3. Members that are null are left out, and so are empty objects: a columnar reader cannot tell null from absent.
4. Numbers are IEEE doubles, as JSON servers treat them: a number that is integral and at most 2**53 in size is
   printed as an integer (`1.0`, `1` and `1e0` are `1`; `-0.0` is `0`), any other as Python's `repr` of the double
   (the shortest text that reads back as the same double). Integers beyond 2**53 are rounded to the next double.
   Beyond the range of doubles a number is an infinity.
5. NaN and the infinities are the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
6. Lists keep their order and their nulls; objects inside lists are un-nested within themselves. Strings, true and
   false stay as they are.
7. If un-nesting makes one key twice with different values, the member is `{"": [...]}` with the values' canonical
   texts in order, each once.
8. Inside a list, what lies more than 64 levels deep is the string `"..."`. So are the members of objects for which the
   joined keys of one row would take more than 16 MiB: no program logs such rows.
9. A server whose JSON has no NaN and no infinities can only tell null for them (which rule 3 leaves out). `as_nulls`
   makes such a row of a logged one; a read-back takes it for the same row, and counts it.
10. The text is `json.dumps(members, sort_keys=True, separators=(",", ":"))`, in ASCII: keys sorted by code point,
   no white space, everything outside ASCII escaped.

Guarantees: never raises for values that come out of a JSON parser, whatever their depth and size of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from operator import is_

UNCOMPARED_KEYS = frozenset({"_step", "_runtime", "_timestamp"})

_MAX_LIST_DEPTH = 64
_MAX_KEY_CHARS = 16 * 1024 * 1024
_LEFT_OUT = "..."
_EXACT_INTEGERS = 2**53
_INFINITY = float("inf")

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False, allow_nan=False).encode


def value_digest(values: Mapping[str, object]) -> bytes:
    """SHA-256 of the canonical text of a row's values."""
    return digest_of(values.items())


def digest_of(pairs: Iterable[tuple[str, object]]) -> bytes:
    """`value_digest` of members of which two may have the same key."""
    return sha256(_encode(_members(pairs, top=True)).encode("ascii")).digest()


def canonical_text(values: Mapping[str, object]) -> str:
    """What `value_digest` is the digest of."""
    return _encode(_members(values.items(), top=True))


def as_nulls(values: Mapping[str, object]) -> Mapping[str, object]:
    """The values with null for every number that JSON can't hold; the very same object where there is none."""
    changed = {key: told for key, value in values.items() if (told := _as_null(value)) is not value}
    return {**values, **changed} if changed else values


def _as_null(value: object, depth: int = 0) -> object:
    if isinstance(value, (float, int)):
        return value if type(_number(value)) is not str else None
    if isinstance(value, Mapping) and depth < _MAX_LIST_DEPTH:
        told = {key: _as_null(each, depth + 1) for key, each in value.items()}
        return value if all(told[key] is value[key] for key in told) else told
    if isinstance(value, (list, tuple)) and depth < _MAX_LIST_DEPTH:
        elements = [_as_null(each, depth + 1) for each in value]
        return value if all(map(is_, elements, value)) else elements
    return value


class KeyRoom:
    """How much text the joined keys of one row may still take: few bytes of JSON can ask for very much."""

    def __init__(self) -> None:
        self.chars = _MAX_KEY_CHARS


def unnested(key: str, value: Mapping[str, object], room: KeyRoom) -> Iterator[tuple[str, object]]:
    """The members of an object under their joined keys, whatever the depth."""
    waiting: list[tuple[str, object]] = [(key, value)]
    while waiting:
        key, inner = waiting.pop()
        if not isinstance(inner, Mapping):
            yield key, inner
            continue
        room.chars -= (len(key) + 1) * len(inner)
        if room.chars < 0:
            yield key, _LEFT_OUT
        else:
            waiting.extend((f"{key}.{child}", inner[child]) for child in inner)


def _members(
    pairs: Iterable[tuple[str, object]], *, top: bool = False, depth: int = 0, room: KeyRoom | None = None
) -> dict[str, object]:
    room = room or KeyRoom()
    members: dict[str, object] = {}
    for key, value in pairs:
        if top and key in UNCOMPARED_KEYS:
            continue
        kind = type(value)
        plain: object
        if kind is float:
            # What has a fraction is its own number: the common case, without a call. NaN and infinities have none.
            plain = value if value % 1 > 0 else _number(value)  # type: ignore[operator,arg-type]
        elif kind is int:
            plain = _number(value)  # type: ignore[arg-type]
        elif value is None:
            continue
        elif isinstance(value, Mapping):
            inner = _members(unnested(key, value, room), depth=depth, room=room)
            for child, each in inner.items():
                _put(members, child, each)
            continue
        else:
            plain = _list(value, depth, room) if kind is list or kind is tuple else value  # type: ignore[arg-type]
        if key in members:
            _put(members, key, plain)
        else:
            members[key] = plain
    return members


def _put(members: dict[str, object], key: str, value: object) -> None:
    members[key] = _both(members[key], value) if key in members else value


def _both(old: object, new: object) -> object:
    """Two values under one key: the same pair whichever came first."""
    texts = _texts(old) | _texts(new)
    return old if len(texts) == 1 else {"": sorted(texts)}


def _texts(value: object) -> set[str]:
    return set(value[""]) if isinstance(value, dict) else {_encode(value)}


def _number(number: float) -> object:
    if type(number) is int:
        if -_EXACT_INTEGERS <= number <= _EXACT_INTEGERS:
            return number
        try:
            return float(number)
        except OverflowError:
            return "Infinity" if number > 0 else "-Infinity"
    if -_EXACT_INTEGERS <= number <= _EXACT_INTEGERS:
        whole = int(number)
        return whole if whole == number else number
    if number != number:
        return "NaN"
    if number in (_INFINITY, -_INFINITY):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _list(values: list[object] | tuple[object, ...], depth: int, room: KeyRoom) -> object:
    if depth >= _MAX_LIST_DEPTH:
        return _LEFT_OUT
    return [_element(value, depth + 1, room) for value in values]


def _element(value: object, depth: int, room: KeyRoom) -> object:
    kind = type(value)
    if kind is float or kind is int:
        return _number(value)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return _list(value, depth, room)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return _members(value.items(), depth=depth, room=room) if depth < _MAX_LIST_DEPTH else _LEFT_OUT
    return value
