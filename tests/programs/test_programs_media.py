"""Files are what they were: each media type and each saved file is byte-equal on the server.

One training logs everything; then its home, its caches, its working directory and its temporary files are deleted; then
the spool is synced. Each test asks for one kind of file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.syncer.rehearsal import RehearsalServer, RunReport

from .harness import World, need

PROGRAM = Path(__file__).with_name("media_program.py")


@dataclass(frozen=True)
class Arrived:
    """What the program meant, and what the server holds."""

    meant: dict[str, Any]
    runs: dict[str, RunReport]
    told: str

    @property
    def media(self) -> RunReport:
        return self.runs["media"]

    def row(self, key: str) -> dict[str, Any]:
        (value,) = [row[key] for _, row in self.media.rows if key in row]
        assert isinstance(value, dict)
        return value

    def digest(self, path: str) -> str:
        return self.media.files[path].sha256


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrived]:
    need("PIL", "numpy")
    root = tmp_path_factory.mktemp("media")
    world = World(root)
    shutil.copy(PROGRAM, world.work)
    temporary = root / "temporary"
    temporary.mkdir()
    done = world.run(sys.executable, PROGRAM.name, TMPDIR=str(temporary), WANDB_SILENT="true")
    assert (done.exit_code, done.left, done.loopback) == (0, 0, 0), done.err
    meant = json.loads(done.out.splitlines()[-1])
    assert len(world.sealed()) == 3
    for directory in (world.home, world.work, temporary):
        shutil.rmtree(directory)
    world.home.mkdir()
    with RehearsalServer(root / "server") as server:
        synced = subprocess.run(
            [sys.executable, "-m", "wandb_spool", "sync", "--spool", str(world.spool)],
            env=world.environment(**server.environment(), WANDB_SPOOL_CACHE_DIR=str(world.home / "cache")),
            cwd=world.home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        report = server.report()
    assert synced.returncode == 0, synced.stdout + synced.stderr
    yield Arrived(meant, {key[2]: run for key, run in report.runs.items()}, done.err)


@pytest.mark.parametrize("kind", ["audio", "video", "html", "molecule", "object3d", "image_file"])
def test_media_file_arrives_byte_for_byte(arrived: Arrived, kind: str) -> None:
    assert arrived.digest(arrived.row(kind)["path"]) == arrived.meant["media"]["originals"][kind]


def test_images_and_their_masks_arrive_as_wandb_wrote_them(arrived: Arrived) -> None:
    row = arrived.row("images")
    assert row["_type"] == "images/separated" and row["count"] == 2
    for name in row["filenames"]:
        assert arrived.digest(name) == arrived.meant["media"]["written"][name]
    mask = row["all_masks"][0]["truth"]["path"]
    assert arrived.digest(mask) == arrived.meant["media"]["written"][mask]


def test_point_cloud_arrives_as_wandb_wrote_it(arrived: Arrived) -> None:
    path = arrived.row("points")["path"]
    assert path.endswith(".pts.json") and arrived.digest(path) == arrived.meant["media"]["written"][path]


def test_histogram_arrives_in_its_row(arrived: Arrived) -> None:
    histogram = arrived.row("histogram")
    assert sum(histogram["values"]) == 100 and len(histogram["bins"]) == 65


@pytest.mark.parametrize("kind", ["table", "pictures"])
def test_table_arrives_as_a_file_and_as_an_artifact_with_its_pictures(arrived: Arrived, kind: str) -> None:
    row = arrived.row(kind)
    assert arrived.digest(row["path"]) == arrived.meant["media"]["written"][row["path"]] == row["sha256"]
    (artifact,) = [one for one in arrived.media.artifacts if one.type == "run_table" and one.name.endswith(f"-{kind}")]
    assert artifact.state == "COMMITTED" and artifact.files[f"{kind}.table.json"].size_bytes > 0
    if kind == "pictures":
        assert any(name.endswith(".png") for name in artifact.files)


def test_custom_chart_brings_its_table(arrived: Arrived) -> None:
    row = arrived.row("chart_table")
    assert arrived.digest(row["path"]) == arrived.meant["media"]["written"][row["path"]]


@pytest.mark.parametrize(("kind", "module"), [("figure", "matplotlib"), ("plotly", "plotly")])
def test_figure_arrives_as_wandb_wrote_it(arrived: Arrived, kind: str, module: str) -> None:
    need(module)
    path = arrived.row(kind)["path"]
    assert arrived.digest(path) == arrived.meant["media"]["written"][path]


def test_every_media_file_of_the_run_arrived(arrived: Arrived) -> None:
    written = arrived.meant["media"]["written"]
    assert {path: file.sha256 for path, file in arrived.media.files.items() if path in written} == written


def test_code_arrives_as_an_artifact_and_as_the_main_file(arrived: Arrived) -> None:
    (code,) = [one for one in arrived.media.artifacts if one.type == "code" and one.name == "source"]
    assert code.state == "COMMITTED"
    assert code.files["media_program.py"].sha256 == arrived.meant["media"]["code"]
    assert arrived.digest("code/media_program.py") == arrived.meant["media"]["code"]


def test_saved_files_are_what_their_policy_promises_whatever_became_of_the_originals(arrived: Arrived) -> None:
    files = arrived.runs["files"].files
    found = {name: files[name].sha256 for name in arrived.meant["files"] if name in files}
    assert found == arrived.meant["files"]


def test_onnx_model_brings_its_external_weights(arrived: Arrived) -> None:
    files = arrived.runs["files"].files
    assert files["out/model.onnx.data"].sha256 == arrived.meant["files"]["out/model.onnx.data"]
    assert "model.onnx.data holds the weights" in arrived.told


def test_artifact_arrives_though_everything_outside_the_spool_is_gone(arrived: Arrived) -> None:
    (artifact,) = arrived.runs["artifacts"].artifacts
    assert (artifact.name, artifact.state) == ("model", "COMMITTED") and "best" in artifact.aliases
    assert {name: file.sha256 for name, file in artifact.files.items()} == arrived.meant["artifacts"]
    assert artifact.files["empty"].sha256 == hashlib.sha256(b"").hexdigest()
