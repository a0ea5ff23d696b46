"""Copy, move and in place: where the bytes are afterwards, also after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wandb_spool.spool.adopting import fragment_name
from wandb_spool.spool.found_runs import examine
from wandb_spool.spool.manifest import read_manifest

from .trees import Tree, environment, settle


def sealed_sizes(tree: Tree, name: str) -> list[tuple[str, int]]:
    manifest, _ = read_manifest(tree.entries()[name].run_directory(tree.spool_root))
    return sorted((item.kind, item.size_bytes) for item in manifest.files if item.kind != "debug")


def test_move_takes_the_directories_away_and_keeps_all_of_it(tree: Tree) -> None:
    tree.only("saved", "staged")
    old = [tree.run_directory(name) for name in ("saved", "staged")]
    tree.adopt("--move")
    assert not any(path.exists() for path in old)
    assert ("file", 3000) in sealed_sizes(tree, "saved")
    assert ("staged", 3000) in sealed_sizes(tree, "staged")


def test_in_place_leaves_a_link_that_a_plain_sync_can_use(tree: Tree) -> None:
    tree.only("staged")
    old = tree.run_directory("staged")
    inode = tree.log("staged").stat().st_ino
    tree.adopt("--in-place")
    assert old.is_symlink() and next(old.glob("*.wandb")).stat().st_ino == inode
    assert ("staged", 3000) in sealed_sizes(tree, "staged")
    assert tree.adopt("--in-place", code=2).count("no run directory") == 1


def test_in_place_refuses_another_file_system_and_touches_nothing(tree: Tree) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tree.root.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    tree.only("plain")
    before = tree.fingerprint()
    tree.spool_root = shm / f"spool-{os.getpid()}-{time.monotonic_ns()}"
    try:
        told = tree.adopt("--in-place", code=2)
        assert "another file system" in told and "nothing was adopted" in told
        assert tree.fingerprint() == before
        assert not tree.spool_root.exists()
        tree.adopt("--move")
        assert not list(tree.root.rglob("*.wandb"))
        assert tree.counts() == {"incoming": 1}
    finally:
        subprocess.run(["rm", "-r", str(tree.spool_root)], check=False)


def test_relative_links_survive_a_move(tree: Tree) -> None:
    tree.only("saved")
    link = tree.run_directory("saved") / "files" / "weights.bin"
    target = os.path.relpath(os.path.realpath(link), link.parent)
    link.unlink()
    link.symlink_to(target)
    tree.adopt("--move")
    assert ("file", 3000) in sealed_sizes(tree, "saved")
    assert not list(tree.root.rglob("*.wandb"))


def test_renamed_and_online_directories_come_in_under_names_that_are_delivered(tree: Tree) -> None:
    tree.only("plain", "torn")
    tree.run_directory("plain").rename(tree.root / "my best run")
    online = tree.run_directory("torn")
    online.rename(online.with_name(online.name.removeprefix("offline-")))
    body = tree.adopted()
    assert body["counts"]["will be mended"] == 2
    names = {entry.fragment for entry in tree.entries().values()}
    assert all(name.startswith(("offline-run-", "run-")) for name in names)
    assert tree.counts() == {"incoming": 2}


def test_killed_adoption_goes_on_where_it_stopped(tree: Tree) -> None:
    before = tree.fingerprint()
    words = [sys.executable, "-m", "wandb_spool", "adopt", str(tree.root), "--spool", str(tree.spool_root)]
    for wait_s in (0.35, 0.45, 0.5, 0.6):
        process = subprocess.Popen(words, env=environment(tree.home), stdout=subprocess.DEVNULL)
        time.sleep(wait_s)
        process.kill()
        process.wait()
    tree.adopt()
    subprocess.run(
        [sys.executable, "-c", _RECOVER, str(tree.spool_root)], env=environment(tree.home), check=True, timeout=60
    )
    assert tree.fingerprint() == before
    by_source = [entry.run_id for entry in map(tree.spool.read, tree.spool.scan().values())]
    assert len(by_source) == len(set(by_source)) == 10, tree.counts()
    assert set(tree.counts()) == {"incoming"}


_RECOVER = """
import sys
from pathlib import Path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import Observations, put_back_abandoned, recover
spool, seen = Spool.open(Path(sys.argv[1])), Observations()
for clock in (0.0, 1000.0):
    put_back_abandoned(spool, seen, now_s=lambda: clock)
    recover(spool, seen, now_s=lambda: clock)
"""


def test_run_that_is_still_written_is_left_alone(tree: Tree) -> None:
    tree.only("plain", "torn")
    tree.log("torn").write_bytes(tree.log("torn").read_bytes()[:-50])  # changed just now, and no exit record
    with tree.log("plain").open("ab"):  # held open by a process
        body = tree.adopted(code=3)
        assert {Path(item["path"]).name.rsplit("-", 1)[1] for item in body["left_alone"]} == {"plain", "torn"}
        assert body["runs"] == []
    settle(tree.root)
    assert len(tree.adopted()["runs"]) == 2


def test_log_that_grew_since_is_told_and_can_be_adopted_again(tree: Tree) -> None:
    tree.only("plain")
    whole = tree.log("plain").read_bytes()
    tree.log("plain").write_bytes(whole[:-900])
    settle(tree.root)
    tree.adopt()
    entry = tree.entries()["plain"]
    tree.log("plain").write_bytes(whole)
    told = tree.adopt(code=3)
    assert "grew by 900 bytes" in told and f"wandb-spool discard {entry.name}" in told
    words = [sys.executable, "-m", "wandb_spool", "discard", "--yes", entry.name, "--spool", str(tree.spool_root)]
    subprocess.run(words, env=environment(tree.home), check=True, capture_output=True, timeout=60)
    assert len(tree.adopted()["runs"]) == 1
    assert tree.counts() == {"incoming": 1, "discarded": 1}


def test_fragment_names_are_safe_whatever_a_log_says(tree: Tree) -> None:
    tree.only("plain")
    from dataclasses import replace

    run = replace(examine(tree.run_directory("plain"), set()), path=tree.root / "x", run_id="../../etc/päss wd~1")
    name = fragment_name(run)
    assert "/" not in name and "~" not in name and " " not in name
