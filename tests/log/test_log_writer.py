"""What we write is what wandb would have written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wandb_spool.spool.log import (
    EndingKind,
    LogWriter,
    Record,
    RecordKind,
    chain,
    drop_kinds,
    drop_steps_in,
    facts,
    keep_steps_in,
    override_run,
    read_records,
    renumber,
    rewrite,
    rows,
    set_resume,
)
from wandb_spool.spool.log.wire import integer_field, length_field


@pytest.mark.parametrize("name", ["small", "values", "calls", "described", "large", "manyfiles", "killed"])
def test_a_rewrite_of_every_record_is_the_same_file(real_logs: dict[str, Path], name: str) -> None:
    target = io.BytesIO()
    done = rewrite(real_logs[name], target)
    assert target.getvalue() == real_logs[name].read_bytes()[: done.ending.offset]


def test_a_rewrite_with_transforms_that_change_nothing_is_the_same_file(real_logs: dict[str, Path]) -> None:
    target = io.BytesIO()
    rewrite(real_logs["described"], target, chain(renumber(), drop_steps_in([]), override_run(), set_resume()))
    assert target.getvalue() == real_logs["described"].read_bytes()  # this run was made with resume="allow"


sizes = st.one_of(st.integers(0, 300), st.integers(32700, 32800), st.integers(65500, 65600))


@settings(max_examples=100, deadline=None)
@given(st.lists(sizes, max_size=12))
def test_records_of_any_size_come_back_as_they_were(record_sizes: list[int]) -> None:
    payloads = [
        integer_field(1, num) + length_field(RecordKind.OUTPUT_RAW, b"x" * size)
        for num, size in enumerate(record_sizes, 1)
    ]
    target = io.BytesIO()
    with LogWriter(target) as writer:
        for payload in payloads:
            writer.write(payload)
    assert writer.size_bytes == len(target.getvalue())
    reader = read_records(io.BytesIO(target.getvalue()))
    assert [record.payload for record in reader] == payloads
    assert not reader.num_gaps
    assert reader.good_bytes == len(target.getvalue() if payloads else b"")


def test_a_record_of_tens_of_megabytes_comes_back_as_it_was() -> None:
    payload = integer_field(1, 1) + length_field(RecordKind.OUTPUT_RAW, bytes(48 * 1024 * 1024))
    target = io.BytesIO()
    LogWriter(target).write(payload)
    target.seek(0)
    assert [record.payload == payload for record in read_records(target)] == [True]


def test_a_log_is_never_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        LogWriter(tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"mine"


def test_unknown_kinds_and_fields_keep_their_bytes() -> None:
    unknown_kind = integer_field(1, 1) + length_field(90, b"\x01\x02new")
    unknown_field = integer_field(1, 2) + length_field(300, b"later") + length_field(RecordKind.EXIT, b"")
    source = io.BytesIO()
    with LogWriter(source) as writer:
        writer.write(unknown_kind)
        writer.write(unknown_field)
    target = io.BytesIO()
    rewrite(io.BytesIO(source.getvalue()), target, renumber(11))
    kept = list(read_records(io.BytesIO(target.getvalue())))
    assert [(record.kind, record.num) for record in kept] == [(90, 11), (300, 12)] or kept[1].kind == RecordKind.EXIT
    assert kept[0].payload == integer_field(1, 11) + unknown_kind[2:]
    assert kept[1].payload == integer_field(1, 12) + unknown_field[2:]


def test_a_delta_holds_the_wanted_rows_and_everything_that_is_not_a_row(real_logs: dict[str, Path]) -> None:
    log = real_logs["calls"]
    everything = list(rows(log))
    target = io.BytesIO()
    rewrite(log, target, chain(keep_steps_in([range(0, 2), range(7, 9)]), drop_kinds(RecordKind.ALERT), renumber()))
    kept = list(rows(io.BytesIO(target.getvalue())))
    assert [(row.step, row.digest) for row in kept] == [
        (row.step, row.digest) for row in everything if row.step in (0, 1, 7, 8)
    ]
    before, after = facts(log), facts(io.BytesIO(target.getvalue()))
    assert after.ending.kind is EndingKind.FINISHED
    assert not after.num_gaps
    assert (after.config, after.summary, after.exit_code) == (before.config, before.summary, before.exit_code)

    rest = io.BytesIO()
    rewrite(log, rest, drop_steps_in([range(0, 2), range(7, 9)]))
    assert {row.step for row in rows(io.BytesIO(rest.getvalue()))} == {row.step for row in everything} - {0, 1, 7, 8}


def test_a_run_gets_another_identity_and_keeps_the_rest(real_logs: dict[str, Path]) -> None:
    log = real_logs["described"]
    target = io.BytesIO()
    rewrite(
        log,
        target,
        override_run(entity="other", project="elsewhere", run_id="new", tags=["z", "ä"], notes="", group="g"),
    )
    before, after = facts(log), facts(io.BytesIO(target.getvalue()))
    assert (after.entity, after.project, after.run_id) == ("other", "elsewhere", "new")
    assert (after.tags, after.notes, after.group) == (("z", "ä"), "", "g")
    assert (after.display_name, after.job_type, after.config) == (before.display_name, before.job_type, before.config)
    assert after.records == before.records


def test_the_resume_flag_is_set_and_taken_away(real_logs: dict[str, Path]) -> None:
    for log, wanted in ((real_logs["small"], True), (real_logs["described"], False)):
        assert facts(log).resume is not wanted
        target = io.BytesIO()
        rewrite(log, target, set_resume(wanted))
        assert facts(io.BytesIO(target.getvalue())).resume is wanted


def test_a_transform_leaves_a_record_that_it_cannot_read_as_it_is() -> None:
    broken = integer_field(1, 1) + length_field(RecordKind.RUN, b"\xff\xff")
    source, target = io.BytesIO(), io.BytesIO()
    LogWriter(source).write(broken)
    rewrite(io.BytesIO(source.getvalue()), target, chain(set_resume(), override_run(entity="x")))
    assert [record.payload for record in read_records(io.BytesIO(target.getvalue()))] == [broken]


def test_a_record_given_another_content_is_classified_again() -> None:
    record = Record(RecordKind.EXIT, 1, b"", 0).with_payload(integer_field(1, 9) + length_field(RecordKind.RUN, b""))
    assert (record.kind, record.num) == (RecordKind.RUN, 9)
