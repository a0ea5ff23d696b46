"""A whole attack that a number names: which runs, which faults of the server, who is killed when; and its end.

An attack goes on, round after round with more runs and a new plan of faults, until at least five faults have struck
and at least one process was killed. Then everybody recovers and delivers, and the judge looks.

The same number draws the same attack. What depends on time (how far a process got when it was killed, and with it how
many rounds there are) may differ between two machines; what is drawn for a round does not.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delivery.fragments import Templates

from wandb_spool.syncer.rehearsal import Behaviour, DuplicateSteps, LineCounts, StreamTail, random_schedule

from .arena import Arena, Verdict
from .syncers import LongLived, Passes, Syncer
from .trainings import PROJECT, Training, train_and_kill

FAULTS = 5
"""At least so many faults of the server strike in an attack."""

ROUNDS = 25
PLANNED = 8
LONGEST_S = 0.6
SINGLE = ("tiny", "rich", "thousand", "values")
CHAINS = (("front", "rear"), ("front", "rear", "third"), ("front", "third"))


@dataclass(frozen=True)
class Result:
    """One attack and its end."""

    seed: int
    syncer: str
    """`passes`, or `a daemon`."""
    rounds: int
    struck: Counter[str]
    """Faults that struck, by kind; each of the plan counts once, however many requests it hit."""
    requests_hit: int
    kills: tuple[str, ...]
    killed_trainings: int
    beyond: int
    """Rows of killed trainings that are missing though they are older than the second that a death may take."""
    verdict: Verdict
    seconds: float

    @property
    def hard(self) -> bool:
        """Whether it was an attack worth its name."""
        return sum(self.struck.values()) >= FAULTS and bool(self.kills)

    @property
    def clean(self) -> bool:
        lost_without_a_death = self.verdict.lost > 0 and not self.killed_trainings
        return self.verdict.clean and not self.beyond and not lost_without_a_death

    def as_json(self) -> dict[str, Any]:
        good = self.clean and self.hard
        told = "" if good else str(self)
        more = {"good": good, "clean": self.clean, "hard": self.hard, "line": self.line(), "told": told}
        return {**vars(self), "verdict": vars(self.verdict), **more}

    def line(self) -> str:
        verdict = self.verdict
        return (
            f"{'ok' if self.clean and self.hard else 'FAILED':6} seed {self.seed:<6} {self.syncer:8} "
            f"{self.rounds:>2} rounds {verdict.runs:>2} runs {verdict.rows_logged:>5} rows "
            f"{sum(self.struck.values()):>2} faults {len(self.kills):>2} kills  "
            f"lost {verdict.lost} beyond {self.beyond} doubled {verdict.doubled} moved {verdict.moved}  "
            f"{self.seconds:.1f} s"
        )

    def __str__(self) -> str:
        return (
            f"seed {self.seed} ({self.syncer}, {self.rounds} rounds): {self.verdict}\n"
            f"beyond the second: {self.beyond}\n"
            f"struck: {dict(self.struck)}\nkills: {self.kills}\nagain: {again(self.seed)}"
        )


def again(seed: int) -> str:
    """The command that plays an attack once more."""
    return f"python benchmarks/soak.py --seed {seed} --schedules 1 --keep"


@dataclass
class Struck:
    """What hit so far, over the plans of all rounds: each fault of a plan once, and the requests that it hit."""

    kinds: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def take(self, arena: Arena) -> None:
        """The plan's strikes, before the plan is replaced."""
        strikes = arena.server.report(rows=False).struck
        faults = {tuple(sorted((k, v) for k, v in strike.items() if k not in ("at", "count"))) for strike in strikes}
        self.kinds.update(str(dict(fault)["kind"]) for fault in faults)
        self.requests += len(strikes)
        arena.server.clear_faults()


def attack(seed: int, directory: Path, templates: Templates, *, training: bool | None = None) -> Result:
    """Play the attack with this number in an empty directory."""
    draw = random.Random(f"attack {seed}")
    started = time.monotonic()
    with Arena.open(directory, templates) as arena:
        arena.server.set_behaviour(**_behaviour(draw).to_json())
        syncer = draw.choice((Passes, Passes, LongLived))(arena)
        trains = draw.random() < 0.3 if training is None else training
        trained = [train_and_kill(arena, draw, seed)] if trains else []
        rounds, struck = _play(arena, syncer, draw, seed)
        verdict = arena.judge()
        return Result(
            seed=seed,
            syncer=syncer.name,
            rounds=rounds,
            struck=struck.kinds,
            requests_hit=struck.requests,
            kills=tuple(arena.kills),
            killed_trainings=sum(training.died_s is not None for training in trained),
            beyond=sum(_beyond(arena, training) for training in trained),
            verdict=verdict,
            seconds=time.monotonic() - started,
        )


def _play(arena: Arena, syncer: Syncer, draw: random.Random, seed: int) -> tuple[int, Struck]:
    """Round after round until it was an attack worth its name; the number of rounds, and what struck."""
    struck = Struck()
    for number in range(ROUNDS):
        _add_runs(arena, draw, first=number == 0, sealed=not syncer.seals)
        arena.server.set_faults(random_schedule(seed * 1000 + number, faults=PLANNED, longest_s=LONGEST_S), seed=seed)
        syncer.is_attacked(draw)
        syncer.settle()
        struck.take(arena)
        if sum(struck.kinds.values()) >= FAULTS and arena.kills:
            break
    syncer.end()
    return number + 1, struck


def _behaviour(draw: random.Random) -> Behaviour:
    """Where W&B's own behaviour is not known, any of the likely ones."""
    return Behaviour(
        duplicates=draw.choice((DuplicateSteps.DROP, DuplicateSteps.REPLACE)),
        line_counts=draw.choice(list(LineCounts)),
        stream_tail=draw.choice(list(StreamTail)),
        gzip=draw.random() < 0.5,
    )


def _beyond(arena: Arena, training: Training) -> int:
    runs = arena.server.report().runs
    held = [
        set(run.steps) for (_, project, run_id), run in runs.items() if (project, run_id) == (PROJECT, training.run_id)
    ]
    return len(training.surely_logged() - set().union(*held))


def _add_runs(arena: Arena, draw: random.Random, *, first: bool, sealed: bool) -> None:
    """Runs that were sealed after their end, or that are left to the syncer to seal."""
    if not first:
        arena.fragments.add("rich", seal=sealed)
    arena.fragments.add(draw.choice(SINGLE), seal=draw.random() < 0.7 and sealed)
    run_id = f"chain-{draw.randrange(1 << 30):x}"
    for shape in draw.choice(CHAINS) if first else ():
        arena.fragments.add(shape, run_id, seal=sealed)
