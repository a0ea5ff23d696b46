"""Who writes, and how: the hook's copies of identity and durable write are ours; names never repeat; modes hold."""

from __future__ import annotations

import grp
import json
import os
import re
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.runner.hook import HOOK_DIR
from wandb_spool.spool import durable, identity, receipts
from wandb_spool.spool.errors import StorageError, UsageError
from wandb_spool.spool.identity import Identity, Life, life
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import ENTRY_NAME, LAUNCH_NAME, safe_relative
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .entries import entry, put

HOOK_IDENTITY = "import json; from _wandb_spool_hook import identity; print(json.dumps(identity.writer()))"
OUR_IDENTITY = "import json; from wandb_spool.spool import identity; print(json.dumps(identity.current().as_json()))"


def said_by(code: str, environ: dict[str, str]) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env={**kept, "PYTHONPATH": str(HOOK_DIR), **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "77"},
        {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"},
        {"SLURM_JOB_ID": "78", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "5"},
        {"SLURM_JOB_ID": "78", "SLURM_ARRAY_JOB_ID": "77"},
        {"SLURM_RESTART_COUNT": "many"},
    ],
)
def test_hook_identifies_itself_as_the_spool_would(environ: dict[str, str]) -> None:
    hook, ours = said_by(HOOK_IDENTITY, environ), said_by(OUR_IDENTITY, environ)
    assert hook.keys() == ours.keys()
    for mine in (hook, ours):
        assert mine.pop("pid") > 0 and mine.pop("start_ticks") > 0
    assert hook == ours
    assert Identity.from_json({**hook, "pid": 1, "start_ticks": 1}) is not None


def test_hook_writes_entries_with_the_steps_of_the_durable_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HOOK_DIR))
    copy = __import__("_wandb_spool_hook.durable", fromlist=["write_json"])
    document = {"format": 1, "command": "tränen", "rows": None, "nested": {"a": [1, 2.5]}}
    made = {}
    for name, write in (("hook", copy.write_json), ("ours", lambda path, body: durable.write_json(Path(path), body))):
        directory = tmp_path / name
        directory.mkdir()
        with monkeypatch.context() as patched:
            steps = _recorded(patched)
            write(str(directory / "entry.json"), document)
        path = directory / "entry.json"
        made[name] = (steps, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        assert [found.name for found in directory.iterdir()] == ["entry.json"]
    assert made["hook"] == made["ours"]
    assert made["ours"][0] == ["create temporary", "write", "fsync file", "rename", "fsync directory"]


def _recorded(patched: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the kernel, in order."""
    steps: list[str] = []
    real_open, real_write, real_fsync, real_rename = os.open, os.write, os.fsync, os.rename

    def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL and flags & os.O_NOFOLLOW and os.path.basename(path).startswith(".tmp-")
            steps.append("create temporary")
        return real_open(path, flags, mode, **more)

    def written(fd: int, content: bytes) -> int:
        steps.append("write")
        return real_write(fd, content)

    def synced(fd: int) -> None:
        steps.append("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        real_fsync(fd)

    def renamed(source: Any, target: Any) -> None:
        steps.append("rename")
        real_rename(source, target)

    for name, function in (("open", opened), ("write", written), ("fsync", synced), ("rename", renamed)):
        patched.setattr(os, name, function)
    return steps


def test_own_process_lives_and_another_boot_is_dead() -> None:
    me = identity.current()
    assert life(me) is Life.ALIVE
    assert life(Identity(**{**me.as_json(), "start_ticks": me.start_ticks + 1})) is Life.DEAD
    assert life(Identity(**{**me.as_json(), "boot_id": "another"})) is Life.DEAD
    assert life(Identity(**{**me.as_json(), "host": "another"})) is Life.UNKNOWN
    assert life(Identity(**{**me.as_json(), "pid_ns": "another"})) is Life.UNKNOWN


def test_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "print('here', flush=True); input()"], stdout=-1, stdin=-1)
    assert child.stdout is not None and child.stdout.readline()
    ticks = identity.start_ticks(child.pid)
    assert ticks is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.start_ticks(child.pid) is None
    child.communicate()


@pytest.mark.parametrize(
    "body", [None, [], {}, {"host": 1}, {"pid": "x"}, {**identity.current().as_json(), "pid": 1e999}]
)
def test_no_identity_is_nobody(body: object) -> None:
    assert Identity.from_json(body) is None


# -- names -----------------------------------------------------------------------------------------------------------


def test_launch_names_never_repeat(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same second, the same host, the same random number: the second launch still has a directory of its own."""
    numbers = iter(["0a0b0c0d", "0a0b0c0d", "0a0b0c0d", "11111111"])

    def drawn(size: int) -> str:
        return next(numbers) if size == 4 else os.urandom(size).hex()

    monkeypatch.setattr(secrets, "token_hex", drawn)
    first, second = (Launch.create(spool, ["python"], now_s=0) for _ in range(2))
    assert first.name != second.name
    assert first.paths.root != second.paths.root and second.paths.record.exists()


def test_names_are_the_documented_ones(spool: Spool) -> None:
    launch = Launch.create(spool, ["python"], now_s=1_795_236_600)
    assert LAUNCH_NAME.match(launch.name) and launch.paths.root == spool.root / "runs" / "202611" / launch.name
    assert not launch.name.count(".") and "~" not in launch.name
    match = ENTRY_NAME.match(f"{launch.name}.offline-run-20261121_045001-a.b.r0a1b2c3d")
    assert match is not None and (match["launch"], match["replay"]) == (launch.name, ".r0a1b2c3d")
    assert re.match(r"^\d{8}T\d{6}-[A-Za-z0-9-]{1,32}-[0-9a-f]{8}$", launch.name)


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "", "a\nb", "a\x00b", ".."])
def test_path_that_leads_out_is_none(path: str) -> None:
    assert safe_relative(path) is None


def test_launch_in_which_nothing_ran_leaves_nothing(spool: Spool) -> None:
    launch = Launch.create(spool, ["python"])
    assert launch.discard_if_empty() and not launch.paths.root.exists()
    kept = Launch.create(spool, ["python"])
    (kept.paths.wandb / "offline-run-20261121_045001-x").mkdir(parents=True)
    assert not kept.discard_if_empty() and kept.paths.root.exists()


def test_command_with_odd_bytes_is_recorded(spool: Spool) -> None:
    command = ["python", b"\xff.py".decode("utf-8", "surrogateescape")]
    assert Launch.create(spool, command).record()["command"] == command


# -- modes -----------------------------------------------------------------------------------------------------------


def everything_in(spool: Spool) -> list[Path]:
    launch = Launch.create(spool, ["python"])
    launch.free_reserve()
    for state in (State.OPEN, State.HELD, State.DELIVERED):
        put(spool, state, list(State).index(state))
    receipts.append_receipt(spool, {"entry": entry().name})
    return [spool.root, *spool.root.rglob("*")]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_nobody_else_can_look_into_a_spool(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        found = everything_in(Spool.create(tmp_path / "spool"))
    finally:
        os.umask(before)
    wrong = [path for path in found if stat.S_IMODE(path.stat().st_mode) != (0o700 if path.is_dir() else 0o600)]
    assert wrong == []


@pytest.mark.parametrize("umask", [0o002, 0o077], ids=oct)
def test_spool_of_a_group_is_the_groups_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    group = _another_group()
    before = os.umask(umask)
    try:
        found = everything_in(Spool.create(tmp_path / "spool", group=group))
    finally:
        os.umask(before)
    wanted = grp.getgrnam(group).gr_gid
    wrong = [path for path in found if stat.S_IMODE(path.stat().st_mode) != (0o2770 if path.is_dir() else 0o660)]
    assert wrong == []
    assert {path.stat().st_gid for path in found} == {wanted}


def _another_group() -> str:
    mine = set(os.getgroups())
    for found in grp.getgrall():
        if found.gr_gid != os.getgid() and (os.geteuid() == 0 or found.gr_gid in mine):
            return found.gr_name
    pytest.skip("this user is in no second group")


def test_group_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Spool.create(tmp_path / "spool", group="no-such-group-anywhere")


# -- the spool itself ------------------------------------------------------------------------------------------------


def test_directory_with_something_else_in_it_does_not_become_a_spool(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError):
        Spool.create(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "thesis.tex"]


def test_spool_that_was_made_half_is_finished(tmp_path: Path) -> None:
    (tmp_path / "spool" / "queue" / "open").mkdir(parents=True)
    made = Spool.create(tmp_path / "spool")
    assert all(made.paths.queue(state).is_dir() for state in State)
    assert Spool.create(tmp_path / "spool").spool_id == made.spool_id


def test_failed_write_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.json"
    durable.write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StorageError) as told:
        durable.write(path, b"new")
    assert path.read_bytes() == b"old" and [found.name for found in tmp_path.iterdir() if found.is_file()] == ["f.json"]
    assert "Input/output error" in str(told.value) and str(path) in str(told.value)
