"""Find the fragments that a dead trainer, launcher or node left open, and seal them.

A writer that lives is never sealed: on its own host, boot and pid namespace that is exact; elsewhere only a sequence
number that stood still twice on the observer's own clock counts, and the seal is then *provisional* (docs/format.md).
"""

from __future__ import annotations

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
from .states import State

STALE_AFTER_S = 60.0


@dataclass(frozen=True)
class Recovered:
    """What became of one open fragment."""

    entry: str
    state: State
    why: str


class Observations:
    """When this observer first saw which sequence number, on its own clock. Kept by the caller between calls."""

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
    now_s: Callable[[], float] = time.time,
    stale_after_s: float = STALE_AFTER_S,
    writers_timeout_s: float = 2.0,
) -> list[Recovered]:
    """Seal what the dead left; adopt run directories of launches whose entries were never written.

    Returns a line for every open fragment, also for those that are left alone and why.
    """
    orphans(spool)
    told: list[Recovered] = []
    for place in sorted(spool.places(State.OPEN), key=lambda place: place.name):
        try:
            entry = spool.read(place)
            told.append(_recover_one(spool, place, entry, observations, now_s(), stale_after_s, writers_timeout_s))
        except FileNotFoundError:
            continue  # somebody moved it meanwhile
        except SpoolError as error:
            told.append(Recovered(place.name, State.OPEN, str(error)))
    return told


def _recover_one(
    spool: Spool,
    place: Place,
    entry: Entry,
    observations: Observations,
    now_s: float,
    stale_after_s: float,
    writers_timeout_s: float,
) -> Recovered:
    fate, provisional = judge(spool, entry, observations, now_s, stale_after_s=stale_after_s)
    if fate is not None:
        return Recovered(place.name, State.OPEN, fate)
    log = log_path(entry.run_directory(spool.root))
    if log is not None and not wait_for_writers(log, writers_timeout_s):
        return Recovered(place.name, State.OPEN, "a process of this host still holds the log open")
    moved = seal_fragment(spool, place, provisional=provisional, follow_links=writer_here(entry))
    return Recovered(place.name, moved.state, "sealed" + (" provisionally" if provisional else ""))


def judge(
    spool: Spool, entry: Entry, observations: Observations, now_s: float, *, stale_after_s: float
) -> tuple[str | None, bool]:
    """Why a fragment must be left open (None: its writer is gone), and whether that is only provisional."""
    launch = Launch.at(spool, entry.launch_directory(spool.root))
    sign = alive.read(entry.run_directory(spool.root))
    launcher = launch.owner()
    if launcher is not None and launcher != entry.writer and life(launcher) is Life.ALIVE:
        return "its launcher lives and will seal it", False
    writer = entry.writer or launcher
    known = Life.UNKNOWN if writer is None else life(writer)
    if known is Life.ALIVE and not (sign is not None and sign.phase in ("finished", "failed", "continued")):
        return "its writer lives", False
    if known is not Life.UNKNOWN:  # dead, or alive and done with this fragment
        return None, False
    sequence = -1 if sign is None else sign.sequence
    if observations.stood_still(entry.name, sequence, now_s, stale_after_s=stale_after_s):
        return None, True
    return "its writer is on another host or out of sight; it is watched", False


def reopen_grown(spool: Spool) -> list[Place]:
    """Put provisionally sealed fragments whose log grew back to *open*."""
    reopened: list[Place] = []
    for state in (State.INCOMING, State.DEFERRED):
        for place in list(spool.places(state)):
            try:
                entry = spool.read(place)
                if unsealed_growth(spool, entry):
                    reopened.append(reopen(spool, place))
            except (SpoolError, FileNotFoundError):
                continue
    return reopened


def put_back_abandoned(
    spool: Spool,
    observations: Observations,
    *,
    now_s: Callable[[], float] = time.time,
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


def orphans(spool: Spool) -> list[Place]:
    """Make open entries for run directories that have none: the launcher died before it could write them."""
    known = set(spool.scan())
    found = [(launch, directory) for launch, directory in _run_directories(spool) if _name(launch, directory) not in known]
    if found:
        known |= set(spool.scan())  # one that moved while the directories were listed was seen in none of them
    return [
        spool.add(open_entry(spool, launch, directory))
        for launch, directory in found
        if _name(launch, directory) not in known
    ]


def _run_directories(spool: Spool) -> Iterator[tuple[Launch, Path]]:
    for root in sorted(spool.paths.runs.glob("*/*")):
        if root.is_dir():
            launch = Launch.at(spool, root)
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
