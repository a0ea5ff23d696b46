"""`open_run` reads what was logged, without wandb, from whole logs and torn ones."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from wandb_spool.spool import open_run
from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.log import EndingKind, rows, value_digest


def test_everything_that_was_logged_comes_back(rich_run: Path) -> None:
    run = open_run(rich_run)
    assert (run.run_id, run.project, run.exit_code) == ("rich", "export", 0)
    assert run.config == {"lr": 0.1, "nested": {"depth": 2}, "layers": [16, 32]}
    assert run.summary["name"] == "row 29 ü"
    read = list(run.rows())
    assert [row.step for row in read] == list(range(30))
    for step, row in enumerate(read):
        assert row.values["loss"] == 1 / (step + 1.5)
        assert row.values["ok"] is (step % 2 == 0)
        assert (row.values["nested.x"], row.values["nested.y"]) == (step, step + 0.5)
        assert row.values["list"] == [step, "a"]
        assert row.values["large"] == 2**60 + step
    assert math.isnan(float(str(read[3].values["nan"])))
    assert read[3].values["infinite"] == -math.inf
    image = read[7].values["image"]
    assert isinstance(image, dict)
    assert image["_type"] == "image-file"
    assert (rich_run / "files" / str(image["path"])).is_file()
    console = [(line.stream, line.text) for line in run.console()]
    assert ("stdout", "a line on the console") in console
    assert ("stderr", "a complaint") in console
    names = {file.name: file.path.read_bytes() for file in run.files()}
    assert names["saved.txt"] == b"what was saved"
    assert image["path"] in names
    artifacts = {(artifact.type, file.name) for artifact in run.artifacts() for file in run.artifact_files(artifact)}
    assert {("model", "weights/layer one.bin"), ("model", "elsewhere")} <= artifacts
    assert "run_table" in {kind for kind, _ in artifacts}
    assert next(run.system_metrics()).time_s > 1e9


def test_rows_have_the_values_that_the_delivery_compares(rich_run: Path) -> None:
    log = next(rich_run.glob("*.wandb"))
    assert [value_digest(row.values) for row in open_run(log).rows()] == [row.digest for row in rows(log)]


def test_a_data_frame_has_a_row_a_step(rich_run: Path) -> None:
    frame = open_run(rich_run).to_pandas()
    assert next(iter(frame.columns)) == "_step"
    assert list(frame["epoch"]) == [step // 10 for step in range(30)]
    assert frame["epoch"].dtype == "int64"
    assert frame["loss"].dtype == "float64"
    assert frame["ok"].dtype == "bool"
    assert isinstance(open_run(rich_run).to_pandas(system=True), pandas.DataFrame)


def test_a_log_cut_anywhere_gives_the_rows_before_the_cut_and_says_so(rich_run: Path, tmp_path: Path) -> None:
    log = next(rich_run.glob("*.wandb"))
    content = log.read_bytes()
    whole = list(open_run(log).rows())
    for size in range(0, len(content), 997):
        torn = tmp_path / "run-torn.wandb"
        torn.write_bytes(content[:size])
        run = open_run(torn)
        read = list(run.rows())
        assert [row.step for row in read] == [row.step for row in whole[: len(read)]]
        assert run.ending.kind is not EndingKind.FINISHED
        assert list(run.files()) == []


def test_neither_wandb_nor_pandas_nor_pyarrow_is_imported(rich_run: Path) -> None:
    program = (
        "import sys; from wandb_spool.spool import open_run; assert len(list(open_run(sys.argv[1]).rows())) == 30;"
        "assert not {'wandb', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(rich_run)], check=True)


def test_what_is_no_run_is_told_in_one_line(tmp_path: Path, rich_run: Path) -> None:
    with pytest.raises(UsageError, match="no such run directory"):
        open_run(tmp_path / "missing")
    with pytest.raises(UsageError, match="log in this directory"):
        open_run(tmp_path)
    (tmp_path / "not.wandb").write_bytes(b"something else")
    assert list(open_run(tmp_path / "not.wandb").rows()) == []
    assert open_run(tmp_path / "not.wandb").ending.kind is EndingKind.VOID
    shutil.copytree(rich_run, tmp_path / "copy")
    secret = tmp_path / "secret"
    secret.write_text("x")
    (tmp_path / "copy" / "files" / "link").symlink_to(secret)
    assert "link" not in {file.name for file in open_run(tmp_path / "copy").files()}
