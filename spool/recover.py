"""Find the fragments that a dead trainer, launcher or node left open, and seal them.

A writer that lives is never sealed: on its own host, boot and pid namespace that is exact; elsewhere the state of its
Slurm job counts, where Slurm answers, and otherwise a sequence number that stood still twice on the observer's own
clock. A seal that rests on either is *provisional*: it is undone when the log grows (docs/format.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import alive
from .entry import Entry
from .errors import SpoolError
from .identity import Life, host_name, life, start_ticks
from .launches import Launch
from .layout import log_path, target_key
from .leases import holder_of
from .queue import Place, Spool
from .seal import reopen, seal_fragment, unsealed_growth, wait_for_writers, writer_here
from .slurm import Fate, Slurm
from .staging import Stage, grew, writers_log
from .states import State

STALE_AFTER_S = 60.0


@dataclass(frozen=True)
class Recovered:
    """What became of one open fragment."""

    entry: str
    state: State
    why: str


class Observations:
    """When this observer first saw which sequence number, on its own clock. Kept by the caller between calls.

    The clock is monotonic: setting the time of day must not make a writer look stale.
    """

    def __init__(self, seen: dict[str, tuple[int, float]] | None = None) -> None:
        self.seen = {} if seen is None else seen

    def stood_still(self, name: str, sequence: int, now_s: float, *, stale_after_s: float) -> bool:
        before = self.seen.get(name)
        if before is None or before[0] != sequence or now_s < before[1]:
            self.seen[name] = (sequence, now_s)
            return False
        return now_s - before[1] >= stale_after_s


def recover(
    spool: Spool,
    observations: Observations,
    *,
    now_s: Callable[[], float] = time.monotonic,
    stale_after_s: float = STALE_AFTER_S,
    writers_timeout_s: float = 2.0,
    slurm: Slurm | None = None,
    thorough: bool | None = True,
) -> list[Recovered]:
    """Seal what the dead left; adopt run directories of launches whose entries were never written.

    `thorough` is that of `orphans`; None looks for none. Returns a line for every open fragment, also for those that
    are left alone and why.
    """
    slurm = Slurm() if slurm is None else slurm
    if thorough is not None:
        orphans(spool, thorough=thorough)
    told: list[Recovered] = []
    for place in sorted(spool.places(State.OPEN), key=lambda place: place.name):
        try:
            entry = spool.read(place)
            verdict = judge(spool, entry, observations, now_s(), stale_after_s=stale_after_s, slurm=slurm)
            told.append(_recover_one(spool, place, entry, verdict, writers_timeout_s))
        except FileNotFoundError:
            continue  # somebody moved it meanwhile
        except SpoolError as error:
            told.append(Recovered(place.name, State.OPEN, str(error)))
    return told


@dataclass(frozen=True)
class Verdict:
    """Whether the writer of a fragment is gone."""

    lives: bool
    why: str
    certain: bool = True
    """Only then the seal is final."""


def _recover_one(spool: Spool, place: Place, entry: Entry, verdict: Verdict, writers_timeout_s: float) -> Recovered:
    if verdict.lives:
        return Recovered(place.name, State.OPEN, verdict.why)
    launch = Launch.at(spool, entry.launch_directory(spool.root))
    log = writers_log(launch, entry.run_directory(spool.root))
    if log is not None and not wait_for_writers(log, writers_timeout_s):
        return Recovered(place.name, State.OPEN, "a process of this host still holds the log open")
    moved = seal_fragment(spool, place, provisional=not verdict.certain, follow_links=writer_here(entry))
    stage = Stage.of(launch)
    if stage is not None:
        stage.remove_if_sealed()
    sealed = "sealed" if verdict.certain else "sealed provisionally"
    return Recovered(place.name, moved.state, f"{sealed}: {verdict.why}")


def judge(
    spool: Spool,
    entry: Entry,
    observations: Observations,
    now_s: float,
    *,
    stale_after_s: float = STALE_AFTER_S,
    slurm: Slurm | None = None,
) -> Verdict:
    """Whether the writer of an open fragment is gone. Without `slurm` nobody is asked."""
    launch = Launch.at(spool, entry.launch_directory(spool.root))
    sign = alive.read(entry.run_directory(spool.root))
    launcher = launch.owner()
    if launcher is not None and launcher != entry.writer and life(launcher) is Life.ALIVE:
        return Verdict(True, "its launcher lives and will seal it")
    writer = entry.writer or launcher
    known = Life.UNKNOWN if writer is None else life(writer)
    if known is Life.ALIVE and not (sign is not None and sign.phase in ("finished", "failed", "continued")):
        return Verdict(True, "its writer lives")
    if known is Life.ALIVE:
        return Verdict(False, "its run is finished")
    if known is Life.DEAD:
        return Verdict(False, "its writer is dead")
    word = Fate.UNKNOWN if slurm is None else slurm.fate(writer)
    if word is Fate.RUNS:
        return Verdict(True, "its Slurm job runs")
    if word is Fate.OVER:
        return Verdict(False, "its Slurm job is over", certain=False)
    sequence = _log_size(entry.run_directory(spool.root)) if sign is None else sign.sequence
    if observations.stood_still(entry.name, sequence, now_s, stale_after_s=stale_after_s):
        return Verdict(False, f"its writer gave no sign of life for {stale_after_s:.0f} s", certain=False)
    return Verdict(True, "its writer is on another host or out of sight; it is watched")


def _log_size(run_directory: Path) -> int:
    """Without a hook nothing but the log shows life."""
    log = log_path(run_directory)
    try:
        return -1 if log is None else log.stat().st_size
    except OSError:
        return -1


def reopen_grown(spool: Spool) -> list[Place]:
    """Put provisionally sealed fragments whose log grew back to *open*."""
    reopened: list[Place] = []
    for state in (State.INCOMING, State.DEFERRED):
        for place in list(spool.places(state)):
            try:
                entry = spool.read(place)
                if entry.extra.get("provisional") and (unsealed_growth(spool, entry) or _stage_grew(spool, entry)):
                    reopened.append(reopen(spool, place))
            except (SpoolError, FileNotFoundError):
                continue
    return reopened


def _stage_grew(spool: Spool, entry: Entry) -> bool:
    return grew(Launch.at(spool, entry.launch_directory(spool.root)), entry.run_directory(spool.root))


def put_back_abandoned(
    spool: Spool,
    observations: Observations,
    *,
    now_s: Callable[[], float] = time.monotonic,
    stale_after_s: float = 2 * STALE_AFTER_S,
) -> list[Place]:
    """Return active entries whose owner is gone: dead on this host, or its entry and lease stood still for too long."""
    back: list[Place] = []
    for place in list(spool.places(State.ACTIVE)):
        if _owner_lives(spool, place, observations, now_s(), stale_after_s):
            continue
        try:
            back.append(spool.put_back(place))
        except (SpoolError, FileNotFoundError):
            continue  # somebody was faster, or the body is damaged and stays for `repair`
    return back


def _owner_lives(spool: Spool, place: Place, observations: Observations, now_s: float, stale_after_s: float) -> bool:
    token = place.token or ""
    host, _, rest = token.rpartition("-")[0].rpartition("-")
    here = host == host_name()
    if here and rest.isdigit() and start_ticks(int(rest)) is None:
        return False
    try:
        entry = spool.read(place)
    except (SpoolError, FileNotFoundError):
        return True
    sequence = len(entry.history) + entry.attempts
    if entry.target is not None:
        target = entry.target
        key = target_key(target.base_url, target.entity, target.project, target.run_id)
        sequence += int((holder_of(spool, key) or {}).get("sequence") or 0)
    return not observations.stood_still(f"{place.name}~{token}", sequence, now_s, stale_after_s=stale_after_s)


def orphans(spool: Spool, *, thorough: bool = True) -> list[Place]:
    """Make open entries for run directories that have none: the launcher died before it could write them.

    Not `thorough` looks only into launches that have no entry at all: a pass over a spool with ten thousand launches
    must not list ten thousand directories.
    """
    known = set(spool.scan())
    launches = frozenset() if thorough else frozenset(name.partition(".")[0] for name in known)
    found = [
        (launch, directory)
        for launch, directory in _run_directories(spool, launches)
        if _name(launch, directory) not in known
    ]
    if found:
        known |= set(spool.scan())  # one that moved while the directories were listed was seen in none of them
    return [
        spool.add(open_entry(spool, launch, directory))
        for launch, directory in found
        if _name(launch, directory) not in known
    ]


def _run_directories(spool: Spool, without: frozenset[str]) -> Iterator[tuple[Launch, Path]]:
    for month in sorted(spool.paths.runs.glob("*")):
        for name in sorted(os.listdir(month) if month.is_dir() else ()):
            if name not in without and (month / name).is_dir():
                launch = Launch.at(spool, month / name)
                yield from ((launch, directory) for directory in launch.paths.fragments())


def _name(launch: Launch, run_directory: Path) -> str:
    return f"{launch.name}.{run_directory.name}"


def open_entry(spool: Spool, launch: Launch, run_directory: Path) -> Entry:
    """The open entry of a run directory for which the hook wrote none."""
    record = launch.record()
    command = record.get("command")
    return Entry(
        name=f"{launch.name}.{run_directory.name}",
        launch=launch.name,
        fragment=run_directory.name,
        path=run_directory.relative_to(spool.root).as_posix(),
        created=str(record.get("created") or ""),
        run_id=run_directory.name.removeprefix("offline-").split("-", 2)[-1],
        command=" ".join(str(word) for word in command) if isinstance(command, list) else None,
        base_url=record.get("base_url") if isinstance(record.get("base_url"), str) else None,
        writer=launch.owner(),
    )
