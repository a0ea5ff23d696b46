"""A disk that answers with errors: each is told with its path and mend, nothing is half, and the next try works."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import mounts
import pytest
import shim
from spool.entries import entry

from wandb_spool.spool.errors import StorageError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .arena import Arena

MOVE = """
import sys
from pathlib import Path
from wandb_spool.spool.errors import StorageError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
spool = Spool.open(Path(sys.argv[1]))
place = next(spool.places(State.INCOMING))
try:
    spool.move(place, State.HELD)
except StorageError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("error", [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("nth", [1, 2])
def test_failing_call_is_told_and_the_entry_stays_whole(tmp_path: Path, call: str, error: int, nth: int) -> None:
    spool = Spool.create(tmp_path / "spool")
    place = spool.move(spool.add(entry()), State.INCOMING)
    failing = shim.environment(tmp_path, call=call, path="queue/", error=error, nth=nth)
    done = subprocess.run(
        [sys.executable, "-c", MOVE, str(spool.root)], env={**os.environ, **failing}, capture_output=True, text=True
    )
    assert done.returncode in (0, 7), done.stderr
    if done.returncode == 7:
        assert os.strerror(error) in done.stdout and str(spool.root) in done.stdout
    (found,) = spool.scan().values()
    assert spool.read(found).run_id == entry().run_id
    for left in list(spool.places(State.ACTIVE)):
        spool.put_back(left)
    (found,) = spool.scan().values()
    assert found.state in (State.INCOMING, State.HELD)
    if found.state is State.INCOMING:
        spool.move(place, State.HELD)


@pytest.mark.parametrize(
    ("call", "path", "error", "after"),
    [
        ("rename", "queue/", errno.ENOENT, True),
        ("rename", "queue/delivered", errno.EROFS, False),
        ("fsync", "receipts/", errno.EIO, False),
        ("write", "receipts/", errno.EDQUOT, False),
        ("open", "leases/", errno.ENOSPC, False),
    ],
    ids=["rename-succeeds-ENOENT", "rename-EROFS", "fsync-EIO", "write-EDQUOT", "open-ENOSPC"],
)
def test_pass_on_a_failing_disk_ends_with_everything_delivered_once(
    tmp_path: Path, arena: Arena, call: str, path: str, error: int, after: bool
) -> None:
    for shape in ("tiny", "front", "rear"):
        arena.fragments.add(shape, None if shape == "tiny" else "chain")
    failing = shim.environment(tmp_path, call=call, path=path, error=error, nth=2, times=2, after=after)
    told = arena.syncing.run("sync", "--all", "--patience", "1", **failing)
    assert "Traceback" not in told.stderr, told.stderr
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean, f"{verdict}\n{told.stderr}"


def test_read_only_spool_is_told_and_delivered_when_it_is_writable_again(tmp_path: Path, arena: Arena) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    root = str(arena.spool.root)
    arena.fragments.add("tiny")
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        done = subprocess.run(["mount", "-o", "remount,bind,ro", root], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"can't mount read-only here: {done.stderr}")
        told = arena.syncing.run("sync", "--all")
        assert told.returncode != 0 and "read-only" in (told.stdout + told.stderr).lower()
        assert "Traceback" not in told.stderr
    finally:
        subprocess.run(["umount", root], check=True)
    arena.settle()
    assert arena.judge().clean


def test_scratch_disk_that_is_full_holds_nothing_up_for_ever(tmp_path: Path, arena: Arena) -> None:
    arena.fragments.add("rich")
    with mounts.tmpfs(tmp_path / "scratch", "size=200k") as scratch:
        mounts.fill(scratch)
        arena.syncing.once(everything=True, scratch=scratch)
        assert arena.states() == [State.DEFERRED]
        assert "scratch" in (arena.entries()[0].entry.reason or "") or "push view" in (
            arena.entries()[0].entry.reason or ""
        )
    arena.settle()
    assert arena.judge().clean


def test_full_spool_never_says_delivered_before_the_receipt_is_on_the_disk(tmp_path: Path, arena: Arena) -> None:
    templates = arena.fragments.templates
    with mounts.tmpfs(tmp_path / "small", "size=24m") as disk, Arena.open(disk / "arena", templates) as small:
        small.fragments.add("tiny")
        ballast = mounts.fill(disk)
        try:
            small.syncing.once(everything=True, scratch=tmp_path)
        except StorageError as error:
            assert error.full
        assert State.DELIVERED not in small.states()
        ballast.unlink()
        small.settle()
        verdict = small.judge()
        assert verdict.clean, str(verdict)
