"""Real trainings that die: their trainer, their wandb-core, their launcher, or all at once.

A training writes beside its log when it logged which row, so that the judge can tell what physics takes (the last
second before the death) from what must not be missing.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from .arena import Arena

COUNTED_S = 1.0
"""What a death may take."""

PROJECT = "trained"
_ROW = struct.Struct("<id")
_LOGGED_BEFORE = 20

TRAINER = """
import os, struct, sys, time, wandb
count = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
run = wandb.init(project="trained", id=sys.argv[2], settings=wandb.Settings(silent=True))
for step in range(700):
    run.log({"loss": step * 0.5}, step=step)
    os.write(count, struct.pack("<id", step, time.monotonic()))
    time.sleep(0.004)
"""

SHORT = """
import sys, wandb
run = wandb.init(project="trained", id=sys.argv[1])
for step in range(5):
    run.log({"loss": step}, step=step)
run.finish()
"""

VICTIMS = ("trainer", "wandb-core", "launcher", "everything", "a step")


@dataclass(frozen=True)
class Training:
    """A training that was attacked, and what it had logged when."""

    run_id: str
    logged: tuple[tuple[int, float], ...]
    died_s: float | None
    """None when the one that died was not the training itself: then nothing at all may be missing."""

    def surely_logged(self) -> set[int]:
        """The steps that must arrive: each was followed by another one, and is older than the counted second."""
        closed = self.logged[:-1] if self.died_s is not None else self.logged
        return {step for step, at_s in closed if self.died_s is None or at_s < self.died_s - COUNTED_S}


def train_and_kill(arena: Arena, draw: random.Random, seed: int) -> Training:
    """One training under the real launcher; who dies of it, and when, is drawn."""
    victim = draw.choice(VICTIMS)
    run_id = f"trained-{seed}"
    if victim == "a step":
        return _launcher_dies_at_a_step(arena, draw, run_id)
    counted = arena.directory / "counted"
    words = [sys.executable, "-m", "wandb_spool", "run", "--quiet", "--spool", str(arena.spool.root), "--"]
    with (arena.directory / "trained").open("w") as told:
        process = subprocess.Popen(
            [*words, sys.executable, "-c", TRAINER, str(counted), run_id],
            env=arena.syncing.environment(), cwd=arena.syncing.home, stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
        wait(lambda: len(_logged(counted)) > _LOGGED_BEFORE or process.poll() is not None)
        time.sleep(draw.uniform(0.2, 2.5))
        died_s = _kill_one(arena, psutil.Process(process.pid), victim)
        process.wait(120)
    dies = victim in ("trainer", "everything")
    return Training(run_id, _logged(counted), died_s if dies else None)


def _kill_one(arena: Arena, launcher: psutil.Process, victim: str) -> float:
    """Returns when it was; waits until the whole training is over."""
    everything = [launcher, *launcher.children(recursive=True)]
    cores = [process for process in everything if is_called(process, "wandb-core")]
    chosen = {"launcher": [launcher], "trainer": launcher.children()[:1], "wandb-core": cores}.get(victim, everything)
    died_s = time.monotonic()
    for process in chosen:
        kill(process)
    arena.kills.append({"wandb-core": "wandb-core of a training", "everything": "a whole training"}.get(victim, victim))
    wait(lambda: not any(_runs(process) for process in everything))
    return died_s


def _launcher_dies_at_a_step(arena: Arena, draw: random.Random, run_id: str) -> Training:
    """Before, during or after a short training that ends by itself; what it logged is all in its log then."""
    words = ["run", "--quiet", "--spool", str(arena.spool.root), "--", sys.executable, "-c", SHORT, run_id]
    arena.dying(words, draw.randint(8, 40))
    trained = any(arena.spool.root.glob(f"runs/*/*/wandb/*-{run_id}/*.wandb"))
    return Training(run_id, tuple((step, 0.0) for step in range(5)) if trained else (), None)


def _logged(path: Path) -> tuple[tuple[int, float], ...]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    whole = content[: len(content) // _ROW.size * _ROW.size]
    return tuple((step, at_s) for step, at_s in _ROW.iter_unpack(whole))


# -- processes -------------------------------------------------------------------------------------------------------


def is_called(process: psutil.Process, wanted: str) -> bool:
    """Whether one of its words holds this name."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(wanted in word for word in words)


def kill(process: psutil.Process) -> bool:
    """SIGKILL; False when it was gone already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Until it holds; TimeoutError when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
