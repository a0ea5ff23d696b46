"""One daemon that nobody kills, for as long as it is wanted: runs keep coming, the server keeps failing.

What dies are its pushes. At the end it must be the process that began, have delivered everything once and in its
place, and go when it is asked to.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from delivery.fragments import Templates

from wandb_spool.syncer.rehearsal import random_schedule

from .arena import Arena, Verdict
from .schedules import CHAINS, LONGEST_S, PLANNED, SINGLE, Struck
from .syncers import DONE, LongLived

PACE_S = 6.0
"""It shares its cores with other attacks."""

MOST_WAITING = 12
SETTLED_RUNS = 10


@dataclass(frozen=True)
class Served:
    """What the daemon did."""

    seed: int
    verdict: Verdict
    struck: Counter[str]
    kills: tuple[str, ...]
    memory_mb: tuple[float, float]
    cpu_s: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        good = self.verdict.clean and not self.verdict.lost
        line = f"{'ok' if good else 'FAILED':6} the daemon: {self.verdict}"
        return {**vars(self), "verdict": vars(self.verdict), "good": good, "line": line}


def serve(seed: int, directory: Path, templates: Templates, enough: Callable[[], bool]) -> Served:
    """Until `enough` says so; AssertionError when the daemon dies, or does not get done."""
    draw = random.Random(f"steady {seed}")
    struck = Struck()
    started = time.monotonic()
    with Arena.open(directory, templates) as arena:
        daemon = LongLived(arena)
        began_as = daemon.pid
        process = psutil.Process(began_as)
        memory_mb = 0.0
        number = 0
        while not enough():
            arena.server.set_faults(random_schedule(seed * 1_000_000 + number, faults=PLANNED, longest_s=LONGEST_S))
            if sum(state not in DONE for state in arena.states()) < MOST_WAITING:
                _add(arena, draw)
            if draw.random() < 0.3:
                daemon.loses_its_push(draw)
            _look_on(arena, enough)
            struck.take(arena)
            number += 1
            memory_mb = memory_mb or (_memory_mb(process) if number >= SETTLED_RUNS else 0.0)
        daemon.settle()
        at_end_mb, times = _memory_mb(process), process.cpu_times()
        assert daemon.pid == began_as
        daemon.end()
        return Served(
            seed, arena.judge(), struck.kinds, tuple(arena.kills), (memory_mb or at_end_mb, at_end_mb),
            times.user + times.system, time.monotonic() - started,
        )  # fmt: skip


def _add(arena: Arena, draw: random.Random) -> None:
    shapes = draw.choice((*((shape,) for shape in SINGLE), *CHAINS))
    run_id = f"run-{draw.randrange(1 << 40):x}"
    for shape in shapes:
        arena.fragments.add(shape, run_id, seal=False)


def _look_on(arena: Arena, enough: Callable[[], bool]) -> None:
    until = time.monotonic() + PACE_S
    while time.monotonic() < until and not enough():
        arena.release_quarantined()
        time.sleep(0.2)


def _memory_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6
