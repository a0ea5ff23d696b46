"""Rows: the committed steps of a log.

Guarantees: every whole history record that has a step is one `Row`, in the order of the log. Which calls of a program
make a row is written down in docs/log-format.md. One without a step is left out and counted by `facts` as malformed.

`Row.values` is un-nested (`{"a": {"b": 1}}` is `{"a.b": 1}`), with the numbers as logged and NaN as a float, and
without `_step`. `Row.digest` is the value digest of `canonical`. A row larger than `MAX_ROW_BYTES`, or one
whose values cannot be read, stands with its step, without values, and with the digest of its bytes: it counts, and it
equals nothing that a server returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from wandb_spool.spool.log.canonical import KeyRoom, digest_of, unnested, value_digest
from wandb_spool.spool.log.framing import LogReader
from wandb_spool.spool.log.items import (
    item_value,
    key_name,
    parse_all,
    parse_json,
    plain_items,
    read_step,
    split_item,
)
from wandb_spool.spool.log.record import Record, RecordKind, content
from wandb_spool.spool.log.wire import WireError, messages

_ITEM, _STEP = 1, 2
_STEP_TAG = 0x12
_STEP_PATH = ("_step",)

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Values of larger rows are not decoded; no server takes a history line of that size."""


class Row(NamedTuple):
    """One committed step."""

    step: int
    values: dict[str, object]
    digest: bytes
    record_num: int


def rows(source: Path | str | BinaryIO, *, salvage: bool = False) -> Iterator[Row]:
    """The rows of a log. How the log ends is what `facts` tells."""
    with LogReader(source, salvage=salvage) as reader:
        for record in reader:
            if record.kind == RecordKind.HISTORY:
                row = read_row(record)
                if row is not None:
                    yield row


def read_row(record: Record) -> Row | None:
    """The row in a history record; None when it has no step."""
    raw = plain_row(record)
    if raw is not None:
        step, texts = raw
        values = dict(zip(map(key_name, texts), parse_all(texts.values()), strict=True))
        if len(values) == len(texts):
            values.pop("_step", None)
            return Row(step, _flat(values), value_digest(values), record.num)
    return _read_carefully(record)


def plain_row(record: Record) -> tuple[int, dict[bytes, bytes]] | None:
    """Step, and the JSON text of each value by its encoded key, of a row of the one common shape: small plain items,
    then the step. `_step` may stand among the values too. None for every other shape."""
    buf = record.payload
    if len(buf) > MAX_ROW_BYTES:
        return None
    try:
        start, end = content(record)
        texts, stop = plain_items(buf, start, end)
        # Behind the items wandb writes the step: field 2, a message of one number.
        if stop + 2 <= end and buf[stop] == _STEP_TAG and stop + 2 + buf[stop + 1] == end:
            return read_step(buf, stop + 2, end), texts
    except WireError:
        pass  # the careful walk says what is wrong
    return None


def _read_carefully(record: Record) -> Row | None:
    members: dict[tuple[str, ...], object] | None = None
    step: int | None = None
    if len(record.payload) <= MAX_ROW_BYTES:
        try:
            step, members = _read_history(record)
        except WireError:
            members = None
    if members is None:
        step = read_step_of(record)
        return None if step is None else Row(step, {}, sha256(record.payload).digest(), record.num)
    if step is None:
        return None
    values: dict[str, object] = {
        path[0] if len(path) == 1 else ".".join(path): value for path, value in members.items()
    }
    if len(values) == len(members):
        digest = value_digest(values)
    else:
        digest = digest_of((".".join(path), value) for path, value in members.items())
    return Row(step, _flat(values), digest, record.num)


def read_step_of(record: Record) -> int | None:
    """Only the step of a history record; the values of a small one are decoded when it stands among them."""
    try:
        start, end = content(record)
        step = _step(record.payload, _behind_items(record.payload, start, end), end)
        if step is None:
            step = _step(record.payload, start, end)
        if step is None and len(record.payload) <= MAX_ROW_BYTES:
            step, _ = _read_history(record)
        return step
    except WireError:
        return None


def _behind_items(buf: bytes, start: int, end: int) -> int:
    """Where the items at the beginning of a row end, as far as their lengths are short; nothing of them is checked."""
    pos = start
    while pos + 1 < end and buf[pos] == 0x0A:
        size = buf[pos + 1]
        if size >= 0x80:
            if pos + 2 >= end or buf[pos + 2] >= 0x80:
                return pos
            size += (buf[pos + 2] << 7) - 0x80 + 1
        pos += 2 + size
    return pos if pos <= end else start


def _step(buf: bytes, start: int, end: int) -> int | None:
    places = messages(buf, start, end, _STEP)
    return read_step(buf, *places[-2:]) if places else None


def _read_history(record: Record) -> tuple[int | None, dict[tuple[str, ...], object]]:
    buf = record.payload
    start, end = content(record)
    places = messages(buf, start, end, _ITEM)
    members: dict[tuple[str, ...], object] = {}
    item_stop = start
    for item_start, item_stop in zip(places[::2], places[1::2], strict=True):
        path, json_text, typed = split_item(buf, item_start, item_stop, typed=True)
        members[path] = parse_json(json_text) if json_text is not None else item_value(buf, None, typed)
    # wandb writes the step behind the items.
    step = _step(buf, item_stop, end)
    if step is None:
        step = _step(buf, start, end)
    logged = members.pop(_STEP_PATH, None)
    if step is None and isinstance(logged, (int, float)) and logged == logged // 1:
        step = int(logged)
    return step, members


def _flat(values: dict[str, object]) -> dict[str, object]:
    if dict not in map(type, values.values()):
        return values
    flat: dict[str, object] = {}
    room = KeyRoom()
    for key, value in values.items():
        flat.update(unnested(key, value, room) if isinstance(value, Mapping) else ((key, value),))
    return flat
