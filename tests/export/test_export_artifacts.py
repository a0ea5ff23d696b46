"""`export` brings the bytes of artifacts along, checked, whatever the log calls them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.spool.exporting import Format, Piece, export_run
from wandb_spool.spool.log import LogWriter
from wandb_spool.spool.log.wire import integer_field, length_field, text_field
from wandb_spool.spool.run_reader import open_run

_ARTIFACT, _RUN = 8, 17


def _files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def _export(run: Path, out: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wandb_spool", "export", str(run), "--format", "jsonl", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_the_bytes_of_every_artifact_come_along_also_from_a_spool_that_moved(
    rich_spool: Path, rich_run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(rich_spool, moved)
    away = rich_spool.with_name("away")
    os.rename(rich_spool, away)
    try:
        _export(moved / rich_run.relative_to(rich_spool), tmp_path)
    finally:
        os.rename(away, rich_spool)
    found = _files(tmp_path / "rich" / "artifacts")
    assert found.pop("model/weights/layer one.bin") == "first"
    assert found.pop("model.2/weights/layer one.bin") == "second"
    assert all(name.startswith("run-") for name in found), found  # the logged table
    described = json.loads((tmp_path / "rich" / "run.json").read_text())
    assert {item["directory"] for item in described["artifacts"]} >= {"model", "model.2"}
    assert described["artifact_files_missing"] == []


def test_without_artifacts_only_their_names_are_told(rich_run: Path, tmp_path: Path) -> None:
    _export(rich_run, tmp_path, "--no-artifacts")
    assert not (tmp_path / "rich" / "artifacts").exists()
    assert len(json.loads((tmp_path / "rich" / "run.json").read_text())["artifacts"]) == 3


def test_what_is_gone_or_altered_is_told_and_the_rest_is_exported(
    rich_spool: Path, rich_run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(rich_spool, moved)
    staged = [
        path for path in moved.rglob("data/**/*") if path.is_file() and path.read_bytes() in (b"first", b"second")
    ]
    assert len(staged) == 2
    for path in staged:
        if path.read_bytes() == b"first":
            path.unlink()
        else:
            path.write_bytes(b"SECOND")
    done = _export(moved / rich_run.relative_to(rich_spool), tmp_path, code=3)
    assert "is gone" in done.stderr
    assert "other bytes than those that were logged" in done.stderr
    assert "layer one.bin" not in str(_files(tmp_path / "rich" / "artifacts"))
    assert (tmp_path / "rich" / "history.jsonl").exists()


def _log(directory: Path, name: str, *entries: tuple[str, Path, bytes]) -> Path:
    directory.mkdir()
    contents = b"".join(
        length_field(4, text_field(1, path) + text_field(2, _md5(content)) + integer_field(4, len(content))
                     + text_field(6, str(local)))
        for path, local, content in entries
    )  # fmt: skip
    with LogWriter(directory / "run-x.wandb") as log:
        log.write(integer_field(1, 1) + length_field(_RUN, text_field(1, "x")))
        body = text_field(4, "model") + text_field(5, name) + text_field(6, "d") + length_field(12, contents)
        log.write(integer_field(1, 2) + length_field(_ARTIFACT, body))
    return directory


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "..", "", ".hidden", "a/b", "n" * 500, "a\nb", "model:v3"])
def test_no_name_in_a_log_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    hostile = ["../escaped", "/escaped", "a/../../escaped", "", ".", "a\nb", "x", "x", "x/y", "ok"]
    run = _log(tmp_path / "run", name, *((path, source, b"bytes") for path in hostile))
    before = set(tmp_path.iterdir())
    done = export_run([Piece("f", open_run(run))], tmp_path / "out", Format.JSONL)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    assert not (tmp_path.parent / "escaped").exists()
    directories = list((tmp_path / "out" / "artifacts").iterdir())
    assert len(directories) == 1
    assert _files(directories[0]) == {"x": "bytes", "ok": "bytes"}
    assert (done.artifact_files, len(done.missing)) == (2, 8)


def test_a_link_or_a_pipe_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    entries: list[tuple[str, Path, Any]] = [(name, tmp_path / name, b"secret") for name in ("link", "pipe")]
    done = export_run([Piece("f", open_run(_log(tmp_path / "run", "m", *entries)))], tmp_path / "out", Format.JSONL)
    assert (done.artifact_files, len(done.missing)) == (0, 2)
