"""A spool that can't be used never stops a training, unless that was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .processes import Launching

TRAINING = (
    "import wandb\nrun = wandb.init(project='p')\nfor i in range(20): run.log({'x': i})\nrun.finish()\nprint('trained')"
)


def _file(path: Path) -> None:
    path.write_text("not a directory")


def _somebody_elses(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("")


def _newer(path: Path) -> None:
    Spool.create(path)
    (path / "spool.json").write_text(json.dumps({"format": 2}))


def _damaged(path: Path) -> None:
    Spool.create(path)
    (path / "spool.json").write_text("{")


BREAKS = [_file, _somebody_elses, _newer, _damaged]


@pytest.fixture
def state_spool(launching: Launching) -> Path:
    return launching.home / ".local/state/wandb-spool"


@pytest.mark.parametrize("break_it", BREAKS)
def test_training_is_logged_to_the_users_state_directory_instead(
    launching: Launching, state_spool: Path, break_it: Callable[[Path], None]
) -> None:
    break_it(launching.spool)
    done = launching.run("sh", "-c", "exit 3")
    assert done.returncode == 3
    assert "WARNING" in done.stderr
    assert f"logged to the fallback spool {state_spool}" in done.stderr
    assert f"wandb-spool sync --spool {state_spool}" in done.stderr


@pytest.mark.parametrize("break_it", BREAKS)
def test_required_spool_that_is_broken_is_125_and_the_command_is_not_run(
    launching: Launching, break_it: Callable[[Path], None]
) -> None:
    break_it(launching.spool)
    done = launching.run("touch", str(launching.home / "ran"), options=["--require-spool"])
    assert done.returncode == 125
    assert not (launching.home / "ran").exists()
    assert "--require-spool" in done.stderr


def test_rows_of_a_training_with_a_broken_spool_are_kept_in_the_fallback(
    launching: Launching, state_spool: Path
) -> None:
    _file(launching.spool)
    done = launching.run(sys.executable, "-c", TRAINING)
    assert done.stdout.strip().endswith("trained"), done.stderr
    spool = Spool.open(state_spool)
    entries = [spool.read(place) for place in spool.places(State.INCOMING)]
    assert [entry.rows for entry in entries] == [20]


def test_without_a_writable_home_the_temporary_directory_keeps_the_rows(launching: Launching, tmp_path: Path) -> None:
    _file(launching.spool)
    (launching.home / ".local").write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = launching.run(sys.executable, "-c", TRAINING, TMPDIR=str(temporary))
    assert done.returncode == 0
    assert "temporary directory of this machine" in done.stderr
    spool = Spool.open(temporary / f"wandb-spool-{os.getuid()}")
    assert [spool.read(place).rows for place in spool.places(State.INCOMING)] == [20]


def test_directory_that_somebody_else_prepared_in_the_temporary_one_is_not_used(
    launching: Launching, tmp_path: Path
) -> None:
    _file(launching.spool)
    (launching.home / ".local").write_text("")
    temporary, trap = tmp_path / "tmp", tmp_path / "trap"
    temporary.mkdir()
    trap.mkdir()
    (temporary / f"wandb-spool-{os.getuid()}").symlink_to(trap)
    done = launching.run("true", TMPDIR=str(temporary))
    assert done.returncode == 0
    assert list(trap.iterdir()) == []


def test_training_runs_without_logging_when_nothing_can_be_written(launching: Launching) -> None:
    _file(launching.spool)
    (launching.home / ".local").write_text("")
    done = launching.run(sys.executable, "-c", TRAINING, TMPDIR="/proc/nowhere")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("trained"), done.stderr
    assert "WITHOUT LOGGING" in done.stderr
    assert "this launch was not logged" in done.stderr


def test_configuration_that_cant_be_read_does_not_stop_a_training(launching: Launching, state_spool: Path) -> None:
    (launching.home / ".config").mkdir()
    (launching.home / ".config/wandb-spool.toml").write_text("spool = [")
    words = [sys.executable, "-m", "wandb_spool", "run", "--", "sh", "-c", "exit 4"]
    done = subprocess.run(words, env=launching.environment(), cwd=launching.home, capture_output=True, text=True)
    assert done.returncode == 4
    assert "the configuration is not TOML" in done.stderr
    assert state_spool.is_dir()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "full"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_disk_without_room_for_the_reserve_is_told_before_the_training(
    launching: Launching, full_disk: Path, state_spool: Path
) -> None:
    launching.spool = full_disk / "spool"
    done = launching.run("true")
    assert done.returncode == 0
    assert "No space left on device" in done.stderr
    assert str(state_spool) in done.stderr
    assert launching.launches() == []
