"""The README's first commands as a new user types them, where the home can't be written and wandb is an old one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import RehearsalServer

README = Path(__file__).parents[2] / "README.md"
OLD = "WANDB_SPOOL_OLD_PYTHONS"
"""Interpreters with another wandb, separated by colons: `python -m venv old && old/bin/pip install wandb==0.19.11`."""

STEPS = """
set -e
! touch "$HOME/a-file" 2> /dev/null || { echo "the home can be written"; exit 1; }
wandb-spool init "$SCRATCH/spool" > init.txt
eval "$(grep -o 'export WANDB_SPOOL_DIR=.*' init.txt | head -n 1)"
wandb-spool run -- "$TRAINING_PYTHON" train.py
wandb-spool sync
wandb-spool status
wandb-spool ls
wandb-spool verify --remote
"""

TRAIN = """
import wandb
run = wandb.init(project="digits", config={"lr": 0.1}, mode="online")
open("model.bin", "wb").write(b"x" * 1000)
for step in range(20):
    run.log({"loss": 1 / (step + 1)})
artifact = wandb.Artifact("model", "model")
artifact.add_file("model.bin")
run.log_artifact(artifact)
run.finish()
"""

READ_ONLY = 'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" && cd "$1" && exec bash steps.sh'


def pythons() -> list[str]:
    return [sys.executable, *filter(None, os.environ.get(OLD, "").split(":"))]


def in_a_read_only_home(work: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True) if shutil.which("unshare") else None
    if probe is None or probe.returncode != 0:
        pytest.skip("no mount namespace can be made here (unshare -m)")
    words = ["unshare", "-m", "bash", "-c", READ_ONLY, "steps", str(work)]
    return subprocess.run(
        words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("python", pythons())
def test_first_five_minutes_in_a_home_that_cant_be_written(
    python: str, tmp_path: Path, rehearsal: RehearsalServer
) -> None:
    places = {name: tmp_path / name for name in ("home", "scratch", "work", "tmp", "bin")}
    for directory in places.values():
        directory.mkdir()
    (places["work"] / "train.py").write_text(TRAIN)
    (places["work"] / "steps.sh").write_text(STEPS)
    command = places["bin"] / "wandb-spool"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m wandb_spool "$@"\n')
    command.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "XDG"))}
    environ = {
        **kept,
        "PATH": f"{places['bin']}:{os.environ['PATH']}",
        "HOME": str(places["home"]),
        "TMPDIR": str(places["tmp"]),
        "SCRATCH": str(places["scratch"]),
        "TRAINING_PYTHON": python,
        **rehearsal.environment(),
    }
    done = in_a_read_only_home(places["work"], environ)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout and "read-only" not in done.stdout.lower(), done.stdout
    (place,) = Spool.open(places["scratch"] / "spool").places(State.DELIVERED)
    (run,) = rehearsal.report().runs.values()
    assert list(run.steps) == list(range(20)) and place.state is State.DELIVERED
    assert "holds" in done.stdout and not list(places["home"].iterdir())


@pytest.mark.skipif(not os.environ.get(OLD), reason=f"no other wandb to train with: {OLD} names no interpreter")
def test_one_of_the_pythons_has_another_wandb() -> None:
    asked = [subprocess.check_output([python, "-c", "import wandb; print(wandb.__version__)"]) for python in pythons()]
    assert len(set(asked)) > 1


def test_commands_of_the_first_five_minutes_stand_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for line in STEPS.splitlines():
        if line.startswith("wandb-spool "):
            assert " ".join(line.split()[:2]) in text, line
