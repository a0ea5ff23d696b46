"""`export` writes what was logged so that pyarrow, pandas and plain JSON read it back, types kept."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
import pytest
from bundle.fabric import write_log
from hypothesis import given, settings
from hypothesis import strategies as st

from wandb_spool.spool.columns import BATCH_ROWS, ColumnKind, join, kind_of
from wandb_spool.spool.exporting import Format, Piece, export_run, superseded_from
from wandb_spool.spool.run_reader import open_run


def _export(rich_spool: Path, out: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wandb_spool", "export", "--spool", str(rich_spool), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_parquet_keeps_types_and_values(rich_spool: Path, tmp_path: Path) -> None:
    _export(rich_spool, tmp_path, "rich", "--format", "parquet")
    table = pyarrow.parquet.read_table(tmp_path / "rich" / "history.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types["_step"] == types["epoch"] == types["nested.x"] == types["large"] == "int64"
    assert types["loss"] == types["number"] == types["nan"] == types["_timestamp"] == "double"
    assert types["ok"] == "bool"
    assert types["name"] == types["list"] == types["mixed"] == types["image"] == types["table"] == "string"
    kinds = {field.name: field.metadata[b"wandb_spool.kind"].decode() for field in table.schema}
    assert (kinds["name"], kinds["list"], kinds["mixed"], kinds["image"]) == ("string", "json", "json", "json")
    rows = table.to_pylist()
    assert [row["_step"] for row in rows] == list(range(30))
    for step, row in enumerate(rows):
        assert row["loss"] == 1 / (step + 1.5)
        assert row["name"] == f"row {step} ü"
        assert row["large"] == 2**60 + step
        assert json.loads(row["list"]) == [step, "a"]
        assert json.loads(row["mixed"]) == (step if step < 20 else f"text {step}")
        assert row["number"] == (step if step < 25 else step + 0.25)
    assert math.isnan(rows[3]["nan"])
    assert rows[4]["nan"] is None
    assert rows[3]["infinite"] == -math.inf
    image = json.loads(rows[7]["image"])
    assert (tmp_path / "rich" / "files" / image["path"]).is_file()
    frame = pandas.read_parquet(tmp_path / "rich" / "history.parquet")
    assert frame["epoch"].tolist() == [step // 10 for step in range(30)]
    assert json.loads((tmp_path / "rich" / "config.json").read_text()) == {
        "lr": 0.1,
        "nested": {"depth": 2},
        "layers": [16, 32],
    }
    assert json.loads((tmp_path / "rich" / "summary.json").read_text())["epoch"] == 2
    assert json.loads((tmp_path / "rich" / "run.json").read_text())["rows"] == 30
    assert (tmp_path / "rich" / "files" / "saved.txt").read_text() == "what was saved"
    console = pyarrow.parquet.read_table(tmp_path / "rich" / "console.parquet").to_pylist()
    assert ("stdout", "a line on the console") in {(line["stream"], line["text"]) for line in console}
    system = pyarrow.parquet.read_table(tmp_path / "rich" / "system.parquet")
    assert system.num_rows > 0
    assert system.schema.field("memory_percent").type == "double"


def test_json_lines_hold_the_same_and_every_parser_reads_them(rich_spool: Path, tmp_path: Path) -> None:
    _export(rich_spool, tmp_path, "rich", "--format", "jsonl")

    def strict(text: str) -> object:
        raise AssertionError(f"{text} is no JSON")

    lines = (tmp_path / "rich" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=strict) for line in lines]
    assert [row["_step"] for row in rows] == list(range(30))
    assert rows[3]["nan"] == "NaN"
    assert rows[3]["infinite"] == "-Infinity"
    assert "nan" not in rows[4]
    assert rows[29]["mixed"] == "text 29"
    assert rows[7]["image"]["_type"] == "image-file"
    frame = pandas.read_json(tmp_path / "rich" / "history.jsonl", lines=True)
    assert frame["epoch"].tolist() == [step // 10 for step in range(30)]
    assert _lines(tmp_path / "rich" / "console.jsonl")
    assert _lines(tmp_path / "rich" / "system.jsonl")


def test_nothing_is_replaced_and_a_mistake_is_one_line(rich_spool: Path, tmp_path: Path) -> None:
    _export(rich_spool, tmp_path, "rich", "--format", "jsonl")
    assert "there already" in _export(rich_spool, tmp_path, "rich", "--format", "jsonl", code=2).stderr
    assert "no format" in _export(rich_spool, tmp_path, "rich", "--format", "csv", code=2).stderr
    assert "no run" in _export(rich_spool, tmp_path, "poor", "--format", "jsonl", code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "rich"]


def test_a_missing_pyarrow_is_told_with_the_way_out(rich_run: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from wandb_spool.cli import answer; sys.exit(answer(['export', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(rich_run), "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--format jsonl" in done.stderr
    assert not (tmp_path / "out" / "rich").exists()


def test_a_run_directory_or_log_anywhere_is_exported_without_any_spool(rich_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wandb_spool", "export", "--format", "jsonl", "--out", str(tmp_path)]
    for where in (rich_run, next(rich_run.glob("*.wandb"))):
        subprocess.run([*command, str(where)], check=True, capture_output=True)
        assert len(_lines(tmp_path / "rich" / "history.jsonl")) == 30
        (tmp_path / "rich").rename(tmp_path / where.name)


def _pieces(tmp_path: Path, *spans: tuple[int, int]) -> list[Piece]:
    pieces = []
    for number, (first, count) in enumerate(spans):
        directory = tmp_path / f"fragment{number}"
        directory.mkdir()
        write_log(directory / "run-x.wandb", "x", count, first_step=first)
        pieces.append(Piece(f"fragment{number}", open_run(directory)))
    return pieces


def test_fragments_are_joined_and_what_a_restart_superseded_is_left_out_or_marked(tmp_path: Path) -> None:
    pieces = _pieces(tmp_path, (0, 100), (80, 100))
    done = export_run(pieces, tmp_path / "joined", Format.JSONL)
    assert [row["_step"] for row in _lines(tmp_path / "joined" / "history.jsonl")] == list(range(180))
    assert (done.rows, done.rows_superseded) == (180, 20)
    export_run(pieces, tmp_path / "kept", Format.JSONL, fragments=True)
    rows = _lines(tmp_path / "kept" / "history.jsonl")
    assert len(rows) == 200
    superseded = [row["_step"] for row in rows if row["_superseded"]]
    assert superseded == list(range(80, 100))
    assert {row["_fragment"] for row in rows} == {"fragment0", "fragment1"}


def test_what_is_superseded_is_what_the_delivery_cuts() -> None:
    from wandb_spool.syncer.compare import cuts

    for steps in ([0, 80], [0, None, 50], [10, 5, 20], [None], [], [0, 80, 40]):
        assert superseded_from(steps) == cuts(steps)


def test_more_rows_than_a_batch_are_all_there_in_both_formats(tmp_path: Path) -> None:
    pieces = _pieces(tmp_path, (0, BATCH_ROWS + 10))
    export_run(pieces, tmp_path / "a", Format.JSONL)
    export_run(pieces, tmp_path / "b", Format.PARQUET)
    table = pyarrow.parquet.read_table(tmp_path / "b" / "history.parquet")
    assert table["_step"].to_pylist() == list(range(BATCH_ROWS + 10))
    assert table.to_pylist() == _lines(tmp_path / "a" / "history.jsonl")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "config.json", "console.parquet", "history.parquet", "run.json", "summary.json", "system.parquet",
    ]  # fmt: skip


_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@settings(max_examples=300, deadline=None)
@given(st.lists(_values), st.lists(_values), st.lists(_values))
def test_the_kind_of_a_column_does_not_depend_on_where_a_batch_ends(a: list[Any], b: list[Any], c: list[Any]) -> None:
    kinds = [kind_of(values) for values in (a, b, c)]
    joined = join(join(kinds[0], kinds[1]), kinds[2])
    assert joined is join(kinds[0], join(kinds[1], kinds[2]))
    assert joined is kind_of([*a, *b, *c])


@pytest.mark.parametrize("kind", list(ColumnKind))
def test_nothing_joined_with_a_kind_is_that_kind(kind: ColumnKind) -> None:
    assert join(kind, ColumnKind.NULL) is join(ColumnKind.NULL, kind) is kind
