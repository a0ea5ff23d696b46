"""The fast walk over items says what the careful walk says, or leaves it to the careful walk."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wandb_spool.spool.log import LogWriter, facts, rows
from wandb_spool.spool.log.items import key_path, parse_all, parse_json, plain_items, split_item
from wandb_spool.spool.log.wire import integer_field, length_field, messages, text_field

_HISTORY, _SUMMARY, _RUN = 2, 3, 17

_keys = st.one_of(
    st.text(min_size=1, max_size=150).map(lambda key: text_field(1, key)),
    st.lists(st.text(max_size=12), min_size=1, max_size=3).map(
        lambda path: b"".join(length_field(2, part.encode()) for part in path)
    ),
    st.just(length_field(2, b"k\x82\x01y")),
)
_values = st.one_of(
    st.floats().map(lambda value: json.dumps(value).encode()),
    st.sampled_from([126, 127, 128, 129, 130, 131, 16_370, 16_390]).map(lambda size: b"1" * size),
    st.binary(max_size=6),
    st.just(b"1\x82\x01\x012"),
)
_items = st.lists(st.tuples(_keys, _values).map(lambda pair: pair[0] + length_field(16, pair[1])), max_size=5)


@settings(max_examples=400, deadline=None)
@given(_items, st.binary(max_size=8), st.binary(max_size=3))
def test_plain_items_are_those_of_the_careful_walk(items: list[bytes], behind: bytes, before: bytes) -> None:
    message = before + b"".join(length_field(1, item) for item in items)
    found, stop = plain_items(message + behind, len(before), len(message) + len(behind))
    careful: dict[tuple[str, ...], bytes | None] = {}
    places = messages(message + behind, len(before), stop, 1)  # raises where the walk ended within an item
    for start, end in zip(places[::2], places[1::2], strict=True):
        path, value, _ = split_item(message + behind, start, end)
        careful[path] = value
    assert {key_path(key): value for key, value in found.items()} == careful


@given(
    st.lists(st.one_of(_values, st.sampled_from([b'"a', b'b"', b"1,2", b"[1", b"2]", b"", b" 1", b"NaN"])), max_size=6)
)
def test_texts_parsed_together_are_the_texts_parsed_one_by_one(texts: list[bytes]) -> None:
    assert repr(parse_all(texts)) == repr([parse_json(text) for text in texts])


def _log(*records: bytes) -> io.BytesIO:
    file = io.BytesIO()
    writer = LogWriter(file)
    for num, record in enumerate((length_field(_RUN, text_field(1, "x")), *records), 1):
        writer.write(integer_field(1, num) + record)
    file.seek(0)
    return file


def _update(path: str, value: object, *, plain: bool = False) -> bytes:
    key = text_field(1, path) if plain else b"".join(length_field(2, part.encode()) for part in path.split("/"))
    return length_field(_SUMMARY, length_field(1, key + length_field(16, json.dumps(value).encode())))


def _remove(path: str) -> bytes:
    return length_field(_SUMMARY, length_field(2, length_field(2, path.encode())))


@pytest.mark.parametrize(
    ("records", "summary"),
    [
        ([_update("a", 1), _update("a", 2, plain=True)], {"a": 2}),
        ([_update("a", 1, plain=True), _update("a", 2), _update("a", 3, plain=True)], {"a": 3}),
        ([_update("a/b", 1), _update("a", 2)], {"a": 2}),
        ([_update("a", 2), _update("a/b", 1)], {"a": {"b": 1}}),
        ([_update("a", 1), _remove("a"), _update("b", 1)], {"b": 1}),
        ([_remove("a"), _update("a", 1)], {"a": 1}),
        ([_update("a", 1), length_field(_SUMMARY, b"\x0a\xff"), _update("b", 2)], {"a": 1, "b": 2}),
    ],
)
def test_the_summary_is_what_applying_every_change_in_its_order_gives(
    records: list[bytes], summary: dict[str, object]
) -> None:
    assert facts(_log(*records)).summary == summary


def test_a_log_of_millions_of_records_is_read_as_its_beginning_is() -> None:
    file = io.BytesIO()
    writer = LogWriter(file)
    writer.write(integer_field(1, 1) + length_field(_RUN, text_field(1, "x")))
    item = length_field(1, length_field(2, b"loss") + length_field(16, b"0.5"))
    nums = [2, 2**14, 2**21 - 1, 2**21, 2**21 + 1, 2**28, 2**35, 2**42]
    for num in nums:
        writer.write(integer_field(1, num) + length_field(_HISTORY, item + length_field(2, integer_field(1, num))))
    file.seek(0)
    assert [(row.step, row.record_num, row.values) for row in rows(file)] == [(num, num, {"loss": 0.5}) for num in nums]
