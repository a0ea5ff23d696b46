"""A whole attack that a number names: which runs, which faults of the server, who is killed when; and its end.

The same number draws the same attack. What depends on time (how far a process got when it was killed) may differ
between two machines; which requests go wrong, who is killed and at which durable step does not.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from delivery.fragments import Templates, train
from delivery.syncing import kill_group

from wandb_spool.syncer.rehearsal import Behaviour, DuplicateSteps, Fault, LineCounts, StreamTail, random_schedule

from .arena import Arena, Verdict

SINGLE = ("tiny", "rich", "thousand", "values")
CHAINS = (("front", "rear"), ("front", "rear", "third"), ("front", "third"))

TRAINER = """
import os, sys, time, wandb
count = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
run = wandb.init(project="trained", id=sys.argv[2], settings=wandb.Settings(silent=True))
for step in range(400):
    run.log({"loss": step * 0.5}, step=step)
    os.pwrite(count, b"%08d" % (step + 1), 0)
    time.sleep(0.004)
"""


@dataclass(frozen=True)
class Result:
    """One attack and its end."""

    seed: int
    faults: tuple[Fault, ...]
    struck: Counter[str]
    kills: tuple[str, ...]
    logged_for_certain: int
    """Rows that killed trainings had logged, as they counted themselves."""
    verdict: Verdict
    seconds: float

    @property
    def clean(self) -> bool:
        return self.verdict.clean

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.verdict}\nfaults: {[fault.to_json() for fault in self.faults]}\n"
            f"struck: {dict(self.struck)}\nkills: {self.kills}\n"
            f"again: python benchmarks/soak.py --seed {self.seed} --schedules 1"
        )


def attack(
    seed: int, directory: Path, templates: Templates, *, faults: int = 8, training: bool | None = None
) -> Result:
    """Play the attack with this number in an empty directory."""
    draw = random.Random(f"attack {seed}")
    started = time.monotonic()
    planned = random_schedule(seed, faults=max(5, faults), longest_s=0.6)
    with Arena.open(directory, templates) as arena:
        arena.server.set_behaviour(**_behaviour(draw).to_json())
        certain = _train_and_kill(arena, draw, seed) if (draw.random() < 0.25 if training is None else training) else 0
        _add_runs(arena, draw)
        arena.server.set_faults(planned, seed=seed)
        for _ in range(draw.randint(1, 2)):
            draw.choice((_at_a_step, _at_a_moment, _only_the_push))(arena, draw)
        if not arena.kills:  # everything was over before it could be hit
            arena.fragments.add("tiny")
            _at_a_step(arena, draw, last=10)
        arena.settle()
        struck = Counter(str(strike["kind"]) for strike in arena.server.report(rows=False).struck)
        verdict = arena.judge()
        return Result(seed, planned, struck, tuple(arena.kills), certain, verdict, time.monotonic() - started)


def _behaviour(draw: random.Random) -> Behaviour:
    """Where W&B's own behaviour is not known, any of the likely ones."""
    return Behaviour(
        duplicates=draw.choice((DuplicateSteps.DROP, DuplicateSteps.REPLACE)),
        line_counts=draw.choice(list(LineCounts)),
        stream_tail=draw.choice(list(StreamTail)),
        gzip=draw.random() < 0.5,
    )


def _add_runs(arena: Arena, draw: random.Random) -> None:
    arena.fragments.add(draw.choice(SINGLE))
    run_id = f"chain-{draw.randrange(1 << 30):x}"
    for shape in draw.choice(CHAINS):
        arena.fragments.add(shape, run_id)


# -- kills -----------------------------------------------------------------------------------------------------------


def _words(arena: Arena) -> list[str]:
    return ["sync", "--spool", str(arena.spool.root), "--all", "--patience", "0.5"]


def _at_a_step(arena: Arena, draw: random.Random, last: int = 45) -> None:
    """The syncer, before one of its durable steps; its `wandb sync` is left to itself."""
    arena.dying(_words(arena), draw.randint(1, last))


def _at_a_moment(arena: Arena, draw: random.Random) -> None:
    """The syncer with all that it started, at any time."""
    process = arena.syncing.start(*_words(arena)[:1], *_words(arena)[3:])
    time.sleep(draw.uniform(0.3, 3.0))
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if process.poll() is None:
        arena.kills.append("sync and its children")
    kill_group(process, signal.SIGKILL)
    for child in children:
        _kill(child)


def _only_the_push(arena: Arena, draw: random.Random) -> None:
    """`wandb sync` or its wandb-core, while the syncer looks on."""
    process = arena.syncing.start(*_words(arena)[:1], *_words(arena)[3:])
    deadline = time.monotonic() + 15
    wanted = draw.choice(("wandb-core", "wandb"))
    wait_s = draw.uniform(0.0, 0.5)
    while process.poll() is None and time.monotonic() < deadline:
        found = [child for child in psutil.Process(process.pid).children(recursive=True) if _is(child, wanted)]
        if found:
            time.sleep(wait_s)
            _kill(found[0])
            arena.kills.append(f"{wanted} of a push")
            break
        time.sleep(0.02)
    process.communicate(timeout=120)


def _is(process: psutil.Process, wanted: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(wanted in word for word in words)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


# -- trainings -------------------------------------------------------------------------------------------------------


def _train_and_kill(arena: Arena, draw: random.Random, seed: int) -> int:
    """A real training whose trainer, wandb-core or launcher dies; returns how many rows it had logged for certain."""
    counted = arena.directory / "counted"
    run_id = f"trained-{seed}"
    words = [sys.executable, "-m", "wandb_spool", "run", "--quiet", "--spool", str(arena.spool.root), "--"]
    with (arena.directory / "trained").open("w") as told:
        process = subprocess.Popen(
            [*words, sys.executable, "-c", TRAINER, str(counted), run_id],
            env=arena.syncing.environment(), cwd=arena.syncing.home, stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
        _wait(lambda: _count(counted) > 20 or process.poll() is not None)
        time.sleep(draw.uniform(0.2, 1.2))
        victim = draw.choice(("trainer", "wandb-core", "launcher", "everything"))
        arena.kills.append(f"{victim} of a training")
        launcher = psutil.Process(process.pid)
        family = {"launcher": [launcher], "trainer": launcher.children()[:1]}
        everything = [launcher, *launcher.children(recursive=True)]
        cores = [child for child in everything if _is(child, "wandb-core")]
        for each in family.get(victim, cores if victim == "wandb-core" else everything):
            _kill(each)
        process.wait(120)
        _wait(lambda: not any(child.is_running() and child.status() != "zombie" for child in everything))
    return _count(counted)


def _count(path: Path) -> int:
    try:
        return int(path.read_bytes() or b"0")
    except (FileNotFoundError, ValueError):
        return 0


def _wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)


def dump(result: Result) -> str:
    return json.dumps({"seed": result.seed, "kills": result.kills, **vars(result.verdict)})


__all__ = ["Result", "attack", "dump", "train"]
