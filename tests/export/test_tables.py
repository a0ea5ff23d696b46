"""A large table is written by a second process: the same file, and no way to end without saying so."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from mounts import tmpfs

from wandb_spool.spool import tables
from wandb_spool.spool.columns import BATCH_ROWS, ColumnKind, JsonLines, Parquet
from wandb_spool.spool.tables import Table

ROWS = 2 * BATCH_ROWS + 3


def writers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if any("spool.tables" in word for word in child.cmdline())]


def fill(table: Table, rows: int = ROWS) -> None:
    for row in range(rows):
        noise = b'"' + os.urandom(24).hex().encode() + b'"' if rows > ROWS else b"1.5"
        table.add((row,), {b"\x12\x01a": b"%d" % row, b"\x12\x01b": noise}, 40)


def written(path: Path, kind: type[Parquet] | type[JsonLines]) -> bytes:
    with Table(kind, path, {"_step": ColumnKind.INTEGER}) as table:
        fill(table)
        table.close()
    assert table.rows == ROWS and writers() == []
    return path.read_bytes()


@pytest.mark.parametrize("kind", [Parquet, JsonLines])
def test_a_table_is_the_same_whoever_writes_it(
    tmp_path: Path, kind: type[Parquet] | type[JsonLines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_processors", lambda: 2)
    beside = written(tmp_path / "beside", kind)
    monkeypatch.setattr(tables, "_processors", lambda: 1)
    assert beside == written(tmp_path / "here", kind)


def test_a_writer_that_dies_is_an_error_and_one_that_is_left_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_processors", lambda: 2)
    with Table(JsonLines, tmp_path / "table", {"_step": ColumnKind.INTEGER}) as table:
        fill(table)
        (writer,) = writers()
        writer.kill()
        with pytest.raises(OSError, match="ended with code -9"):
            table.close()
    with Table(JsonLines, tmp_path / "another", {"_step": ColumnKind.INTEGER}) as table:
        fill(table)
        assert len(writers()) == 1
    assert writers() == []


def test_a_full_disk_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_processors", lambda: 2)
    with (
        tmpfs(tmp_path / "small", "size=1m") as small,
        pytest.raises(OSError, match="No space left"),
        Table(JsonLines, small / "table", {"_step": ColumnKind.INTEGER}) as table,
    ):
        fill(table, 4 * ROWS)
        table.close()
