"""A place to attack: a spool, a syncer and a rehearsal server of its own, and the one judge that ends every attack.

The judge is the balance of `verify --remote`, and beside it what the server itself says of the lines that it was sent:
each step once, on its place, each file byte for byte. Trainings are cheap: real logs under other ids, sealed by the
real seal, unless the training itself is attacked.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from delivery.fragments import Fragments, Templates
from delivery.syncing import QUICK, Syncing

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.log import rows
from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.pruning import is_pruned
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.balance import RunBalance, balances
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.rehearsal.report import Report, RunReport
from wandb_spool.syncer.service import Options

LIMITS = replace(QUICK, late_data_s=0.001, refusals=1000, no_progress_s=8.0)
"""What is missing is pushed again at once, as often as it takes: the faults of an attack end by themselves."""

_WHO = {"sync": "syncer", "run": "launcher", "recover": "seal"}

DIE_AT_STEP = """
import os, signal, sys
from wandb_spool.spool import durable
left = int(os.environ.pop("DIE_AT_STEP"))
def step(name, path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
durable.on_step = step
from wandb_spool.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Verdict:
    """What the judge found, over all runs."""

    runs: int
    rows_logged: int
    delivered: int
    superseded: int
    waiting: int
    lost: int
    missing: int
    doubled: int
    moved: int
    conflicting: int
    files: int
    wrong: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Everything arrived once, in its place, as it was; what was lost is counted elsewhere."""
        odd = self.doubled or self.moved or self.conflicting
        return not (self.missing or odd or self.waiting or self.wrong)

    def __str__(self) -> str:
        counts = " ".join(f"{name}={value}" for name, value in vars(self).items() if name != "wrong")
        return "\n".join([counts, *self.wrong])


@dataclass
class Arena:
    """One attacked installation."""

    directory: Path
    server: RehearsalServer
    fragments: Fragments
    syncing: Syncing
    kills: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, directory: Path, templates: Templates) -> Iterator[Arena]:
        home = directory / "home"
        home.mkdir(parents=True)
        spool = Spool.create(directory / "spool")
        with RehearsalServer(directory / "server") as server:
            fragments = Fragments(spool, templates)
            yield cls(directory, server, fragments, Syncing(spool, server, home, LIMITS))

    @property
    def spool(self) -> Spool:
        return self.fragments.spool

    # -- killing -----------------------------------------------------------------------------------------------------

    def dying(self, words: Sequence[str], step: int, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command of ours that kills itself before its n-th durable step; -SIGKILL if it came so far."""
        self.syncing.write_configuration()
        with (self.directory / "told").open("w+") as told:
            done = subprocess.run(
                [sys.executable, "-c", DIE_AT_STEP, *words],
                env=self.syncing.environment(DIE_AT_STEP=str(step), WANDB_SILENT="true", **environ),
                cwd=self.syncing.home,
                stdout=told,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
            told.seek(0)
            if done.returncode == -signal.SIGKILL:
                self.kills.append(f"{_WHO.get(words[0], words[0])} at durable step {step}")
            return subprocess.CompletedProcess(done.args, done.returncode, told.read(), "")

    # -- the end of an attack ----------------------------------------------------------------------------------------

    def settle(self, passes: int = 40) -> None:
        """What a person and a patient syncer would do: recover, deliver, release, until all is done."""
        for _ in range(passes):
            self.syncing.once(Options(patience_s=0.5, everything=True, stale_after_s=0.0))
            self.release_quarantined()
            if set(self.states()) <= {State.DELIVERED, State.VOID, State.DISCARDED}:
                return
            time.sleep(0.1)  # an outage of the server ends by itself

    def release_quarantined(self) -> None:
        for place in list(self.spool.places(State.QUARANTINED)):
            self.spool.move(place, State.INCOMING, why="released by the attack's person")

    def states(self) -> list[State]:
        return [place.state for place in self.spool.scan().values()]

    def entries(self) -> list[Known]:
        return [Known(self.spool.read(place), place.state) for place in self.spool.scan().values()]

    def judge(self) -> Verdict:
        return judge(self.entries(), self.spool, self.syncing, self.server)


def judge(entries: list[Known], spool: Spool, syncing: Syncing, server: RehearsalServer) -> Verdict:
    """Ask the server, as `verify --remote` does, and look at what it was sent."""
    server.clear_faults()
    server.set_behaviour(late_s=0.0)
    found = balances(spool, entries, syncing.configuration(), syncing.environment())
    targets = {known.entry.target.path for known in entries if known.entry.target is not None}
    whole = server.report()
    ours = {key: run for key, run in whole.runs.items() if "/".join(key) in targets}
    report = replace(whole, runs=ours)
    here = _with_bytes(entries, spool)
    whole_runs = {known.entry.run_id for known in here}
    wrong = [
        *_balance_wrongs(found, whole_runs),
        *_file_wrongs(here, spool, report),
        *_row_wrongs(here, spool, report),
    ]
    runs = list(report.runs.values())
    return Verdict(
        runs=len(found),
        rows_logged=sum(balance.rows_logged for balance in found),
        delivered=sum(balance.delivered for balance in found),
        superseded=sum(balance.superseded for balance in found),
        waiting=sum(balance.waiting for balance in found),
        lost=sum(balance.lost for balance in found),
        missing=sum(balance.missing for balance in found),
        doubled=sum(len(run.doubled) for run in runs),
        moved=sum(len(run.moved) for run in runs),
        conflicting=sum(balance.conflicting for balance in found),
        files=sum(balance.files for balance in found),
        wrong=tuple(wrong),
    )


def _with_bytes(entries: Sequence[Known], spool: Spool) -> list[Known]:
    """Those of whose runs every fragment still lies here: nothing of them was pruned."""
    pruned = {known.entry.run_id for known in entries if is_pruned(spool, known.entry)}
    return [known for known in entries if known.entry.run_id not in pruned]


def _balance_wrongs(found: Sequence[RunBalance], whole: set[str | None]) -> Iterator[str]:
    """`whole`: the runs of which nothing was pruned; of the others nobody can tell whose rows the server has."""
    for balance in found:
        if not balance.holds:
            yield f"{balance.run_id}: the balance does not hold: {balance.as_json()}"
        foreign = balance.foreign if balance.run_id in whole else 0
        if balance.doubled or balance.conflicting or foreign:
            odd = f"{balance.doubled} doubled, {balance.conflicting} conflicting, {foreign} foreign"
            yield f"{balance.run_id}: {odd}"


def _run_of(entry: Entry, report: Report) -> RunReport | None:
    if entry.target is None:
        return None
    return report.runs.get((entry.target.entity, entry.target.project, entry.target.run_id))


def _newest(entries: Sequence[Known]) -> dict[str, Entry]:
    """Of each target run the fragment that wrote last: its files stand."""
    newest: dict[str, Entry] = {}
    for known in sorted(entries, key=lambda known: (known.entry.created, known.entry.name)):
        if known.state is State.DELIVERED and known.entry.target is not None:
            newest[known.entry.target.path] = known.entry
    return newest


def _file_wrongs(entries: Sequence[Known], spool: Spool, report: Report) -> Iterator[str]:
    for entry in _newest(entries).values():
        run = _run_of(entry, report)
        manifest, _ = read_manifest(entry.run_directory(spool.root))
        for item in manifest.files:
            name = item.path.rpartition("/files/")[2]
            held = None if run is None or item.kind != "file" else run.files.get(name)
            if held is not None and (held.size_bytes, held.sha256) != (item.size_bytes, item.sha256):
                yield f"{entry.run_id}: {name} differs on the server"
        committed = {made.digest for made in run.artifacts if made.state == "COMMITTED"} if run else set()
        for artifact in manifest.artifacts:
            if artifact["digest"] not in committed:
                yield f"{entry.run_id}: the artifact {artifact['name']} is not committed"


def _row_wrongs(entries: Sequence[Known], spool: Spool, report: Report) -> Iterator[str]:
    """By hand, without the read-back's code: no step holds a value that nobody logged there."""
    logged: dict[str, dict[int, set[object]]] = {}
    for known in entries:
        if known.entry.target is None:
            continue
        steps = logged.setdefault(known.entry.target.path, {})
        for log in known.entry.run_directory(spool.root).glob("*.wandb"):
            for row in rows(log, salvage=True):
                if row.step is not None:
                    steps.setdefault(row.step, set()).add(row.values.get("loss"))
    for (entity, project, run_id), run in report.runs.items():
        if f"{entity}/{project}/{run_id}" not in logged:
            continue
        steps = logged[f"{entity}/{project}/{run_id}"]
        odd = [step for step, row in run.rows if row.get("loss") not in steps.get(step, set())]
        if odd:
            yield f"{run_id}: steps {odd[:5]} hold what nobody logged there"
        if len(set(run.steps)) != len(run.steps):
            yield f"{run_id}: a step is shown twice"
