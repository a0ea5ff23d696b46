"""The whole way: train without a network, pack, carry, unpack as somebody else, deliver, carry the receipts home."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from wandb_spool.spool.log import artifacts, read_manifest_file, rows, value_digest
from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import RehearsalServer

from .machines import OTHER_UID, Machine, can_change_user, no_network
from .programs import SMALL, TRAIN


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _trained(home: Path, *arguments: str, program: str = TRAIN) -> Machine:
    prefix = no_network()
    if prefix is None:
        pytest.skip("network namespaces can't be made here (unshare -n)")
    cluster = Machine(home, prefix=prefix)
    (home / "train.py").write_text(program)
    cluster.run("run", "--", sys.executable, "train.py", *arguments)
    return cluster


def _artifact_bytes(log: Path) -> dict[str, dict[str, str]]:
    """Artifact name → path → SHA-256 of its bytes, read where the log says they lie."""
    found: dict[str, dict[str, str]] = {}
    for artifact in artifacts(log):
        entries = list(artifact.entries())
        if artifact.manifest_file_path:
            entries += read_manifest_file(Path(artifact.manifest_file_path))
        found[artifact.name] = {entry.path: _sha256(Path(entry.local_path)) for entry in entries}
    return found


def test_a_run_crosses_the_gap_to_another_user_and_its_receipt_comes_home(
    common_ground: Path, rehearsal: RehearsalServer
) -> None:
    why_not = can_change_user()
    if why_not:
        pytest.skip(why_not)
    (common_ground / "a").mkdir(mode=0o700)
    cluster = _trained(common_ground / "a")
    entry = cluster.entries(State.INCOMING)[0]
    run_directory = entry.run_directory(cluster.root)
    manifest, digest = read_manifest(run_directory)
    log = next(run_directory.glob("*.wandb"))
    logged = {row.step: row.digest for row in rows(log)}
    originals = _artifact_bytes(log)
    assert originals["model"]["outside.bin"] == _sha256(cluster.home / "outside.bin")
    for name in ("saved.txt", "outside.bin", "weights/layer one.bin"):
        (cluster.home / name).write_text("overwritten by the next run")
    sealed = {item.path: item.sha256 for item in manifest.files}
    assert len(originals["many"]) == 5
    assert any(item.path.endswith("manifest_contents.jl.gz") for item in manifest.files)

    cluster.run("pack", "--out", "runs.tar.zst")
    assert set(cluster.states().values()) == {State.TRANSIT}
    assert b"nothing to deliver" in cluster.run("sync", environ=rehearsal.environment()).stdout

    (common_ground / "b").mkdir(mode=0o700)
    shutil.copyfile(common_ground / "a" / "runs.tar.zst", common_ground / "b" / "carried.tar.zst")
    os.rename(common_ground / "a", common_ground / "away")  # out of reach: another path, and another user's
    for path in (common_ground / "b", common_ground / "b" / "carried.tar.zst"):
        os.chown(path, OTHER_UID, OTHER_UID)
    beyond = Machine(common_ground / "b", uid=OTHER_UID)
    beyond.run("unpack", "carried.tar.zst")
    arrived = beyond.entries(State.INCOMING)[0]
    there = arrived.launch_directory(beyond.root)
    assert {path: _sha256(there / path) for path in sealed} == sealed
    assert read_manifest(arrived.run_directory(beyond.root))[1] == digest
    beyond.run("verify")
    beyond.run("sync", environ=rehearsal.environment())
    assert set(beyond.states().values()) == {State.DELIVERED}

    told = rehearsal.report().run(str(entry.run_id))
    assert {step: value_digest(row) for step, row in told.rows} == logged
    assert told.once_and_in_place
    files = Path("wandb") / entry.fragment / "files"
    for name, uploaded in told.files.items():
        if (files / name).as_posix() in sealed:
            assert uploaded.sha256 == sealed[(files / name).as_posix()], name
    carried = {path for path in sealed if path.startswith(f"{files.as_posix()}/")}
    assert {f"{files.as_posix()}/{name}" for name in told.files} >= carried
    uploaded_artifacts = {
        artifact.name.partition(":")[0]: {path: item.sha256 for path, item in artifact.files.items()}
        for artifact in told.artifacts
    }
    for name, expected in originals.items():
        assert uploaded_artifacts[name] == expected, name

    beyond.run("pack", "--receipts", "--out", "receipts.tar.zst")
    os.rename(common_ground / "away", common_ground / "a")
    shutil.copyfile(common_ground / "b" / "receipts.tar.zst", common_ground / "a" / "receipts.tar.zst")
    cluster.run("unpack", "receipts.tar.zst")
    home = cluster.entries(State.DELIVERED)[0]
    assert home.receipt is not None
    assert home.receipt["rows_delivered"] == 50
    assert home.receipt["carried"]["spool_id"] == beyond.spool().spool_id
    cluster.run("unpack", "receipts.tar.zst")
    assert len(cluster.entries(State.DELIVERED)) == 1

    home_directory = common_ground / "a" / "spool" / home.path
    cluster.run("prune", "--older-than", "0s", "--yes")
    assert home_directory.exists()  # a receipt from a server on loopback permits nothing
    cluster.run("prune", "--older-than", "0s", "--rehearsal", "--yes")
    assert not home_directory.exists()
    assert set(cluster.states().values()) == {State.DELIVERED}


def test_fragments_of_one_run_in_two_bundles_arrive_in_any_order_and_every_step_once(
    tmp_path: Path, beyond: Machine, rehearsal: RehearsalServer
) -> None:
    home = tmp_path / "n1"
    home.mkdir()
    cluster = _trained(home, "again", "0", "20", "0", program=SMALL)
    cluster.run("edit", "again", "--project", "carried")
    cluster.run("pack", "--out", "first.tar.zst")
    cluster.run("run", "--", sys.executable, "train.py", "again", "15", "30", "100")
    cluster.run("pack", "--out", "second.tar.zst")
    beyond.run("unpack", str(home / "second.tar.zst"), str(home / "first.tar.zst"))
    beyond.run("sync", environ=rehearsal.environment())
    told = rehearsal.report().run("again")
    assert told.project == "carried"
    assert told.steps == tuple(range(30))
    assert told.once_and_in_place
    values = {step: row["value"] for step, row in told.rows}
    assert values == {step: step * 0.5 + (0.0 if step < 15 else 100.0) for step in range(30)}
