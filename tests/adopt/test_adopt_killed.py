"""An adopt that is killed or finds the disk full leaves every run at its old place or in the spool, never half in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import fill, read_only, tmpfs

from wandb_spool.spool.durable import TEMPORARY_PREFIX
from wandb_spool.spool.log import override_run, rewrite, rows
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .trees import Tree, environment, settle

DIE_AT_STEP = """
import os, signal, sys
from wandb_spool.spool import durable
left = int(sys.argv.pop(1))
def step(name, path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
durable.on_step = step
from wandb_spool.__main__ import main
sys.exit(main())
"""


def dying(tree: Tree, step: int, *words: str) -> int:
    command = [sys.executable, "-c", DIE_AT_STEP, str(step), "adopt", str(tree.root), "--spool", str(tree.spool_root)]
    done = subprocess.run([*command, *words], env=environment(tree.home), capture_output=True, timeout=60)
    return done.returncode


def whole(tree: Tree, *names: str) -> None:
    """Each run is in the spool once, with all its rows, and nothing else is."""
    assert tree.counts() == {"incoming": len(names)}
    for name in names:
        log = next(tree.entries()[name].run_directory(tree.spool_root).glob("*.wandb"))
        assert sum(1 for _ in rows(log)) == 20
    assert not list(tree.spool_root.glob(f"runs/*/*/wandb/{TEMPORARY_PREFIX}*")), "a copy that nobody will use"
    launches = {path for path in tree.spool_root.glob("runs/*/*") if not list(path.glob("wandb/*"))}
    assert len(launches) <= 1, "a launch into which nothing came"


@pytest.mark.parametrize(("mode", "first"), [("--copy", 14), ("--move", 17), ("--in-place", 20)])
def test_adopt_killed_before_any_durable_step_is_made_whole_by_the_next(tree: Tree, mode: str, first: int) -> None:
    tree.only("staged")
    master = tree.root.with_name("master")
    tree.root.rename(master)
    kills = 0
    for step in range(first, 300, 25):
        shutil.rmtree(tree.root, ignore_errors=True)
        shutil.rmtree(tree.spool_root, ignore_errors=True)
        shutil.copytree(master, tree.root, symlinks=True)
        code = dying(tree, step, mode)
        if code == 0:
            break
        assert code == -9
        kills += 1
        found = list(tree.root.rglob("*.wandb")) or list(tree.spool_root.rglob("*.wandb"))
        assert found, f"killed at step {step}: the log is nowhere"
        tree.adopt(mode, code=None)
        whole(tree, "staged")
        if mode == "--copy":
            assert len(list(tree.root.rglob("*.wandb"))) == 1
        if mode == "--in-place":
            (place,) = tree.root.rglob("offline-run-*")
            assert place.is_symlink() and list(place.glob("*.wandb")), step
    assert kills > 1


def test_doubtful_runs_are_held_also_when_another_process_has_to_seal_them(tree: Tree) -> None:
    tree.only("plain")
    first = tree.run_directory("plain")
    second = tree.another("plain", "again", stamp="20260101_000000")
    for number in range(40, 120, 38):
        shutil.rmtree(tree.spool_root, ignore_errors=True)
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(first, second)
        next(second.glob("*.wandb")).unlink()
        rewrite(next(first.glob("*.wandb")), second / "run-plain.wandb", override_run(display_name="other"))
        settle(tree.root)
        if dying(tree, number) != -9:
            break
        words = [sys.executable, "-m", "wandb_spool", "recover", "--spool", str(tree.spool_root)]
        subprocess.run(words, env=environment(tree.home), capture_output=True, timeout=60)
        tree.adopt(code=None)
        assert tree.counts() == {"held": 2}, number
        assert all("doubtful" in (tree.spool.read(at).reason or "") for at in tree.spool.places(State.HELD))


def test_disk_that_gets_full_while_it_copies_loses_nothing_and_the_next_call_goes_on(tree: Tree) -> None:
    tree.only("plain", "staged")
    before = tree.fingerprint()
    with tmpfs(tree.spool_root.with_name("disk"), "size=2m") as disk:
        tree.spool_root = disk / "spool"
        Spool.create(tree.spool_root)
        for left in (0, 8_000, 20_000, 40_000):
            ballast = fill(disk, leave_bytes=left)
            tree.adopt(code=None)
            assert tree.fingerprint() == before
            ballast.unlink()
        tree.adopt(code=None)
        whole(tree, "plain", "staged")
    assert tree.fingerprint() == before


def test_source_that_may_only_be_read_is_copied(tree: Tree) -> None:
    tree.only("saved")
    with read_only(tree.root):
        tree.adopt()
        assert tree.counts() == {"incoming": 1}


def test_run_that_may_not_be_moved_leaves_nothing_of_itself_in_the_spool(tree: Tree) -> None:
    tree.only("saved")
    with read_only(tree.root):
        tree.adopt("--move", code=None)
        assert sum(tree.counts().values()) == 0
    tree.adopt("--move", code=None)
    whole(tree, "saved")


def test_running_adopt_is_left_alone_by_another_one(tree: Tree) -> None:
    """Its copies and entries are not the rests of a dead one."""
    from wandb_spool.spool.adopting import make_launch
    from wandb_spool.spool.adoption_rests import clear
    from wandb_spool.spool.adoptions import Adoption, note

    tree.only("plain").adopt()
    launch = make_launch(tree.spool, Path("/nowhere"))
    copy = launch.paths.wandb / f"{TEMPORARY_PREFIX}aa"
    copy.mkdir()
    note(tree.spool, [Adoption("i", "/nowhere", f"{launch.name}.offline-run-20260101_000000-x", 7, done=False)])
    rests = clear(tree.spool)
    assert (rests.sealed, rests.removed) == (0, 0) and copy.is_dir()
