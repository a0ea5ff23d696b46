"""Whatever happens to a log's bytes is a result: a prefix without salvage, and never an invention with it."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.log import Cause, EndingKind, Record, RecordKind, facts, read_records, rewrite, rows
from wandb_spool.spool.log.framing import HEADER, LogReader

Identity = tuple[int, bytes]


def row_identities(log: bytes, *, salvage: bool = False) -> list[Identity]:
    return [(row.step, row.digest) for row in rows(io.BytesIO(log), salvage=salvage)]


def read(log: bytes, *, salvage: bool = False) -> tuple[list[Record], LogReader]:
    reader = read_records(io.BytesIO(log), salvage=salvage)
    return list(reader), reader


@pytest.fixture(scope="session")
def small_rows(small_log: bytes) -> list[Identity]:
    return row_identities(small_log)


@pytest.fixture(scope="session")
def boundaries(small_log: bytes) -> list[int]:
    """Where records end in the small log, which is smaller than a block."""
    records, reader = read(small_log)
    return [record.offset for record in records] + [reader.good_bytes]


def test_a_log_cut_at_any_byte_gives_a_prefix_of_its_rows_and_its_good_bytes(
    small_log: bytes, small_rows: list[Identity], boundaries: list[int]
) -> None:
    for size in range(len(small_log)):
        cut = small_log[:size]
        seen = row_identities(cut)
        assert seen == small_rows[: len(seen)]
        records, reader = read(cut)
        assert reader.good_bytes == max((end for end in boundaries[1:] if end <= size), default=0), size
        assert len(records) == sum(end <= size for end in boundaries[1:])
        assert reader.ending.offset == reader.good_bytes
        run_is_there = any(record.kind == RecordKind.RUN for record in records)
        if not run_is_there:
            assert reader.ending.kind is EndingKind.VOID
        else:
            on_boundary = size in boundaries
            assert reader.ending.kind is (EndingKind.CLEAN if on_boundary else EndingKind.TORN), size


def test_salvage_of_a_cut_log_adds_nothing_to_its_good_prefix(small_log: bytes) -> None:
    for size in range(0, len(small_log), 7):
        cut = small_log[:size]
        plain, reader = read(cut)
        salvaged, salvager = read(cut, salvage=True)
        assert salvaged == plain
        assert (salvager.ending, salvager.damage) == (reader.ending, [])


def flips(log: bytes) -> Iterator[tuple[int, bytes]]:
    chance = random.Random(20)
    for place in range(len(log)):
        flipped = bytearray(log)
        flipped[place] ^= 1 << chance.randrange(8)
        yield place, bytes(flipped)


def test_a_flipped_bit_anywhere_gives_a_prefix_and_says_where_it_ends(
    small_log: bytes, small_rows: list[Identity], boundaries: list[int]
) -> None:
    for place, flipped in flips(small_log):
        seen = row_identities(flipped)
        assert seen == small_rows[: len(seen)]
        _, reader = read(flipped)
        assert reader.ending.kind in (EndingKind.DAMAGED, EndingKind.TORN), place
        assert reader.good_bytes == max((end for end in boundaries[1:] if end <= place), default=0)


def test_salvage_past_a_flipped_bit_loses_the_record_that_it_hit_and_never_makes_one_up(small_log: bytes) -> None:
    whole, _ = read(small_log)
    originals = {record.payload for record in whole}
    for place, flipped in flips(small_log):
        salvaged, reader = read(flipped, salvage=True)
        assert all(record.payload in originals for record in salvaged), place
        lost = len(whole) - len(salvaged)
        if place < len(HEADER):
            assert lost == 0
            continue
        # A wrong length may happen to reach to the end of a later record.
        in_a_length = any(record.offset + 4 <= place < record.offset + 6 for record in whole)
        assert lost in (1, 2) or (in_a_length and lost > 2), place
        if place < whole[-1].offset:
            assert reader.missing_records == lost or reader.ending.kind is EndingKind.TORN
            assert any(damage.start <= place < damage.end for damage in reader.damage)


def test_salvage_of_a_large_damaged_log_keeps_every_row_outside_the_damage(real_logs: dict[str, Path]) -> None:
    log = real_logs["large"].read_bytes()
    originals = row_identities(log)
    chance = random.Random(3)
    for _ in range(12):
        damaged = bytearray(log)
        begin = chance.randrange(len(log) - 5000)
        damaged[begin : begin + 4000] = chance.randbytes(4000)
        salvaged = row_identities(bytes(damaged), salvage=True)
        remaining = iter(originals)
        assert all(row in remaining for row in salvaged), "a row that is not there, or out of order"
        # At worst one block around each end, and the large record that lies in it.
        assert len(salvaged) > len(originals) - 300


def test_a_lost_middle_of_a_large_record_loses_that_record_alone(real_logs: dict[str, Path]) -> None:
    log = real_logs["large"].read_bytes()
    records, _ = read(log)
    large = max(records, key=lambda record: len(record.payload))
    damaged = bytearray(log)
    damaged[large.offset + 1_000_000] ^= 1
    salvaged, reader = read(bytes(damaged), salvage=True)
    assert [record.num for record in salvaged] == [record.num for record in records if record.num != large.num]
    assert [(gap.first, gap.last) for gap in reader.num_gaps] == [(large.num, large.num)]
    assert reader.damage[0].start == large.offset


def test_zeros_behind_the_log_as_after_a_power_loss_are_a_torn_end(small_log: bytes) -> None:
    for zeros in (1, 6, 7, 8, 4096, 3 * 32768):
        log = small_log[:-40] + bytes(40 + zeros)
        _, reader = read(log)
        assert reader.ending.kind is EndingKind.TORN, zeros
        assert read(log, salvage=True)[1].ending.kind is EndingKind.TORN


def test_records_behind_a_zeroed_block_are_damage_and_are_salvaged(real_logs: dict[str, Path]) -> None:
    log = bytearray(real_logs["large"].read_bytes())
    last_blocks = len(log) // 32768 * 32768
    log[last_blocks - 32768 : last_blocks] = bytes(32768)
    _, reader = read(bytes(log))
    assert reader.ending.kind is EndingKind.DAMAGED
    salvaged, salvager = read(bytes(log), salvage=True)
    assert salvaged[-1].kind == RecordKind.EXIT
    assert salvager.damage


def test_a_wrong_header_before_whole_records_is_damage_and_other_files_are_void(small_log: bytes) -> None:
    wrong = b"XXXXXXX" + small_log[7:]
    assert read(wrong)[1].ending.kind is EndingKind.DAMAGED
    assert len(row_identities(wrong, salvage=True)) == len(row_identities(small_log))
    for other in (b"", b":W&B", HEADER, b"{}" * 50_000, bytes(100_000)):
        for salvage in (False, True):
            records, reader = read(other, salvage=salvage)
            assert (records, reader.ending.kind) == ([], EndingKind.VOID)
            assert facts(io.BytesIO(other), salvage=salvage).rows == 0


def test_a_log_without_its_run_record_is_void(small_log: bytes) -> None:
    target = io.BytesIO()
    rewrite(io.BytesIO(small_log), target, lambda record: None if record.kind == RecordKind.RUN else record)
    ending = read(target.getvalue())[1].ending
    assert (ending.kind, ending.cause) == (EndingKind.VOID, Cause.NO_RUN)


def test_what_a_salvaged_copy_holds_is_a_whole_log(small_log: bytes) -> None:
    records, _ = read(small_log)
    damaged = bytearray(small_log)
    damaged[records[-3].offset + 9] ^= 4
    target = io.BytesIO()
    done = rewrite(io.BytesIO(damaged), target, salvage=True)
    copied, reader = read(target.getvalue())
    assert reader.ending.kind is EndingKind.FINISHED
    assert len(copied) == done.records_written == len(records) - 1
    assert done.ending.kind is EndingKind.DAMAGED
    assert len(done.damage) == 1


def test_a_killed_run_keeps_its_committed_rows_and_loses_the_open_one(real_logs: dict[str, Path]) -> None:
    seen = facts(real_logs["killed"])
    assert seen.ending.kind in (EndingKind.CLEAN, EndingKind.TORN)
    assert (seen.rows, seen.last_step, seen.exit_code) == (5, 4, None)


def test_a_log_that_grows_is_read_up_to_where_it_is(small_log: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run-growing.wandb"
    path.write_bytes(small_log[: len(small_log) // 2])
    before = facts(path)
    with path.open("ab") as file:
        file.write(small_log[len(small_log) // 2 :])
    after = facts(path)
    assert before.ending.kind in (EndingKind.TORN, EndingKind.CLEAN)
    assert before.good_bytes <= after.good_bytes == len(small_log)
    assert after.finished
