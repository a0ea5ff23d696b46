"""Rows: what wandb commits, and a digest that is the same on both sides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wandb_spool.spool.log import (
    EndingKind,
    Record,
    RecordKind,
    canonical_text,
    facts,
    read_records,
    read_row,
    rows,
    value_digest,
)
from wandb_spool.spool.log.wire import integer_field, length_field, varint_bytes


def logged(log: Path) -> list[tuple[int, dict[str, object]]]:
    return [
        (row.step, {key: value for key, value in row.values.items() if key not in ("_timestamp", "_runtime")})
        for row in rows(log)
    ]


def test_calls_become_rows_by_the_rules_in_the_docs(real_logs: dict[str, Path]) -> None:
    assert logged(real_logs["calls"]) == [
        (0, {"a": 0}),
        (1, {"a": 1, "b": 1}),
        (2, {}),
        (3, {"a": 3}),
        (5, {"a": 5, "b": 5}),
        (7, {"a": 7}),
        (8, {"a": 8}),
        (20, {"a": 20}),
    ]


def test_values_come_back_as_they_were_logged(real_logs: dict[str, Path]) -> None:
    seen = [values for _, values in logged(real_logs["values"])]
    assert seen[0] == {"flat": 1, "n.a": 1, "n.b.c": [1, 2, {"x": {"y": 1}}], "dotted.key": 5}
    assert math.isnan(seen[1]["nan"])  # type: ignore[arg-type]
    assert (seen[1]["inf"], seen[1]["ninf"]) == (math.inf, -math.inf)
    assert seen[2] == {"text": "héllo\n\"'", "none": None, "yes": True, "ключ": [], "tuple": [1, 2]}
    assert seen[3] == {"third": 1 / 3, "whole": 3, "tiny": 5e-324, "huge": 1e300, "p53": 2**53 - 1, "p70": 2.0**70}
    assert seen[4]["histogram._type"] == "histogram"
    assert seen[5]["table._type"] == "table-file"


def test_a_row_as_a_server_returns_it_has_the_digest_of_the_row_in_the_log(real_logs: dict[str, Path]) -> None:
    server = {
        "_step": 0,
        "_timestamp": 1.0,
        "_runtime": 99,
        "flat": 1.0,
        "n": {"b": {"c": [1.0, 2, {"x.y": 1}]}, "a": 1},
        "dotted": {"key": 5},
    }
    first, second, third, *_ = rows(real_logs["values"])
    assert value_digest(server) == first.digest
    assert value_digest({"nan": "NaN", "inf": "Infinity", "ninf": "-Infinity", "list": ["NaN", 1]}) == second.digest
    assert value_digest(json.loads('{"text": "h\\u00e9llo\\n\\"\'", "yes": true, "ключ": [], "tuple": [1, 2]}')) == (
        third.digest
    )
    assert value_digest(server | {"flat": 2}) != first.digest
    assert value_digest(server | {"more": 0}) != first.digest


def test_the_canonical_text_is_what_its_description_says() -> None:
    values: dict[str, object] = {
        "b": {"y": 1.0, "x": {"z": None, "w": {}}},
        "a": [1e0, -0.0, 0.1, 1e22, None, {"q": {"r": math.nan}}],
        "i": 2**53 + 1,
        "j": 10**400,
        "_step": 5,
        "_runtime": 1,
        "_timestamp": 2,
        "é": "\u2028",
        "n": {"_step": 3},
    }
    assert canonical_text(values) == (
        '{"a":[1,0,0.1,1e+22,null,{"q.r":"NaN"}],"b.y":1,"i":9007199254740992,"j":"Infinity","n._step":3,'
        '"\\u00e9":"\\u2028"}'
    ).replace("9007199254740992", "9007199254740992.0")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": {"b": 1}}, {"a.b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 0}, {"a": -0.0}),
        ({"a": math.nan}, {"a": "NaN"}),
        ({"a": -math.inf}, {"a": "-Infinity"}),
        ({"a": None, "b": {}, "c": 1}, {"c": 1}),
        ({"a.b": 1, "a": {"b": 2}}, {"a": {"b": 1}, "a.b": 2}),
        ({"a.b": 1, "a": {"b": 1.0}}, {"a.b": 1}),
        ({"x": 1, "y": 2}, {"y": 2, "x": 1}),
        ({"n": 2**60}, {"n": float(2**60)}),
        ({"a": 1, "_step": 1}, {"a": 1, "_step": 2}),
    ],
)
def test_rows_that_a_server_may_print_differently_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert value_digest(one) == value_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [None]}, {"a": []}),
        ({"a": 0.1}, {"a": 0.10000000000000002}),
        ({"a.b": 1, "a": {"b": 2}}, {"a.b": 2}),
    ],
)
def test_rows_that_differ_have_different_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert value_digest(one) != value_digest(other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5))
def test_a_digest_survives_json_and_the_order_of_keys(values: dict[str, Any]) -> None:
    again = json.loads(json.dumps(dict(reversed(values.items()))))
    assert value_digest(values) == value_digest(again)
    assert json.loads(canonical_text(values)) is not None


def test_typed_values_and_plain_keys_are_the_same_as_json_and_nested_keys() -> None:
    def record(*items: bytes) -> Record:
        message = b"".join(length_field(1, item) for item in items) + length_field(2, integer_field(1, 7))
        return Record(RecordKind.HISTORY, 3, integer_field(1, 3) + length_field(2, message), 0)

    def key(name: bytes) -> bytes:
        return length_field(1, name)

    typed = record(
        key(b"none") + varint_bytes(3 << 3) + b"\x00",
        key(b"flag") + varint_bytes(4 << 3) + b"\x01",
        key(b"count") + varint_bytes(5 << 3) + varint_bytes(5),  # zigzag: -3
        key(b"ratio") + varint_bytes(6 << 3 | 1) + b"\x00\x00\x00\x00\x00\x00\xe0\x3f",
        key(b"name") + length_field(7, b"x"),
        key(b"more") + length_field(8, b'{"a": [1]}'),
    )
    plain = record(
        length_field(2, b"none") + length_field(16, b"null"),
        length_field(2, b"flag") + length_field(16, b"true"),
        length_field(2, b"count") + length_field(16, b"-3"),
        length_field(2, b"ratio") + length_field(16, b"0.5"),
        length_field(2, b"name") + length_field(16, b'"x"'),
        length_field(2, b"more") + length_field(2, b"a") + length_field(16, b"[1]"),
    )
    one, other = read_row(typed), read_row(plain)
    assert one is not None and other is not None
    assert one.step == other.step == 7
    assert one.values == other.values
    assert one.values == {"none": None, "flag": True, "count": -3, "ratio": 0.5, "name": "x", "more.a": [1]}
    assert one.digest == other.digest


def test_the_step_stands_in_its_own_message_or_among_the_values() -> None:
    item = length_field(1, length_field(1, b"_step") + length_field(16, b"12"))
    row = read_row(Record(RecordKind.HISTORY, 1, integer_field(1, 1) + length_field(2, item), 0))
    assert row is not None and (row.step, row.values) == (12, {})
    assert read_row(Record(RecordKind.HISTORY, 1, integer_field(1, 1) + length_field(2, b""), 0)) is None


def test_facts_say_what_the_run_was(real_logs: dict[str, Path]) -> None:
    seen = facts(real_logs["described"])
    assert seen.ending.kind is EndingKind.FINISHED
    assert (seen.run_id, seen.entity, seen.project) == ("described", "team", "logs")
    assert (seen.display_name, seen.group, seen.job_type) == ("the described", "a group", "train")
    assert (seen.notes, seen.tags, seen.sweep_id) == ("two\nlines", ("x", "y"), "")
    assert seen.config.items() >= {"lr": 0.2, "net": {"depth": 2, "width": 8}, "late": [1, 2]}.items()
    assert seen.summary["best"] == 7
    assert seen.summary["nested"] == {"k": 1}
    assert seen.summary["epoch"] == 2
    assert (seen.rows, seen.first_step, seen.last_step, seen.steps_increase) == (2, 0, 1, True)
    assert (seen.exit_code, seen.exit_not_complete) == (3, False)
    assert (seen.resume, seen.resumed) == (True, False)
    assert seen.wandb_version and seen.python_version and seen.host and seen.start_time_s
    assert ("kept.txt", "now") in {(file.path, file.policy) for file in seen.files}
    assert [(each.name, each.type, set(each.aliases), each.entries) for each in seen.artifacts] == [
        ("model", "model", {"best", "latest"}, 1)
    ]
    assert (seen.alerts, len(seen.alert_times_s)) == (1, 1)
    assert seen.console_lines > 0
    metrics = {metric.name: metric for metric in seen.metrics}
    assert metrics["epoch"].hidden
    assert (metrics["val/*"].step_metric, metrics["val/*"].summaries) == ("epoch", ("max",))
    assert seen.good_bytes == real_logs["described"].stat().st_size
    assert not (seen.num_gaps or seen.damage or seen.clipped or seen.malformed_records)


def test_facts_and_rows_agree_on_every_log(real_logs: dict[str, Path]) -> None:
    for log in real_logs.values():
        seen = facts(log)
        found = [row.step for row in rows(log)]
        assert (seen.rows, seen.first_step, seen.last_step) == (len(found), found[0] if found else None, seen.last_step)
        assert seen.records == sum(1 for _ in read_records(log))
