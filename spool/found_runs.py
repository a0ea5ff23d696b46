"""Find run directories that wandb left elsewhere, and say what each of them holds. Read-only: nothing is changed here.

A run directory is a directory with a `.wandb` log in it, or one that is named like wandb names them. Links to
directories are not followed (they are counted), so a tree that links into itself ends. What can't be read is a result,
never an exception; only the roots themselves must exist.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .layout import FRAGMENT_NAME
from .log import EndingKind, LogFacts, LogReader, RecordKind, artifacts, facts, rows
from .seal import local_paths

SETTLED_AFTER_S = 60.0
"""A log without an exit record that changed within this time may still be written, perhaps on another host."""

_MARKER = "spool.json"


class Verdict(Enum):
    """What adopting a run directory comes to."""

    COMPLETE = "complete"
    MENDED = "will be mended"
    DAMAGED = "damaged"
    LOST = "lost"
    WRITING = "still written"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a run directory."""

    what: str
    lost: bool
    """Whether something of the run is gone for good here; else it is only mended."""


@dataclass(frozen=True)
class FoundRun:
    """A run directory and what its log says."""

    path: Path
    log: Path | None
    identity: str
    """The same for every copy of one log, however far it has grown: the digest of its run record."""
    verdict: Verdict
    problems: tuple[Problem, ...]
    run_id: str | None = None
    entity: str | None = None
    project: str | None = None
    name: str | None = None
    started_s: float | None = None
    """By the clock that trained, like all times in a log."""
    ended_s: float | None = None
    """Only read where it matters: where several directories are of one run."""
    finished: bool = False
    resume: bool = False
    rows: int = 0
    first_step: int | None = None
    last_step: int | None = None
    log_bytes: int = 0
    size_bytes: int = 0
    """All that a copy takes, with what the log names elsewhere."""
    marked: bool = False
    """wandb left a `.synced` marker, which proves nothing."""

    @property
    def source(self) -> Path:
        """The directory in which wandb made it: usually called `wandb`."""
        return self.path.parent


@dataclass
class Search:
    """What a walk through directory trees came across."""

    run_directories: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    spools: list[Path] = field(default_factory=list)


def search(roots: Iterable[Path]) -> Search:
    """All run directories below the roots, each once, in a fixed order."""
    found = Search()
    seen: set[tuple[int, int]] = set()
    for root in roots:
        _walk(Path(os.path.realpath(root)), found, seen)
    return found


def _walk(root: Path, found: Search, seen: set[tuple[int, int]]) -> None:
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            status = directory.stat()
            with os.scandir(directory) as entries:
                inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError:
            found.unreadable.append(directory)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if any(entry.name == _MARKER for entry in inside):
            found.spools.append(directory)
        elif _is_run_directory(directory, inside):
            found.run_directories.append(directory)
        else:
            waiting += _subdirectories(inside, found)


def _is_run_directory(directory: Path, inside: list[os.DirEntry[str]]) -> bool:
    if FRAGMENT_NAME.match(directory.name):
        return True
    return any(entry.name.endswith(".wandb") and entry.is_file(follow_symlinks=False) for entry in inside)


def _subdirectories(inside: list[os.DirEntry[str]], found: Search) -> Iterator[Path]:
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
        elif entry.is_symlink() and entry.name != "latest-run" and os.path.isdir(entry.path):
            found.links.append(Path(entry.path))


def open_logs() -> set[tuple[int, int]]:
    """Device and inode of every `.wandb` file that a process of this host holds open, as far as we may see."""
    held: set[tuple[int, int]] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            held.update(_open_logs_of(process / "fd"))
    return held


def _open_logs_of(descriptors: Path) -> Iterator[tuple[int, int]]:
    try:
        names = os.listdir(descriptors)
    except OSError:
        return
    for name in names:
        try:
            if os.readlink(descriptors / name).endswith(".wandb"):
                status = os.stat(descriptors / name)
                yield status.st_dev, status.st_ino
        except OSError:
            continue


def examine(directory: Path, held: set[tuple[int, int]], *, now_s: float | None = None) -> FoundRun:
    """What one run directory holds."""
    logs = sorted(path for path in directory.glob("*.wandb") if path.is_file() and not path.is_symlink())
    if not logs:
        return _lost(directory, None, "no .wandb log in it")
    log = logs[0]
    try:
        status = log.stat()
        found = facts(log, salvage=True)
        identity = _identity(log)
    except OSError as error:
        return _lost(directory, None, f"its log can't be read: {os.strerror(error.errno or 0)}")
    if _still_written(status, found, held, time.time() if now_s is None else now_s):
        return FoundRun(directory, log, identity or _by_path(directory), Verdict.WRITING, (), found.run_id or None)
    if identity is None or found.ending.kind is EndingKind.VOID:
        return _lost(directory, log, f"the log holds no run ({status.st_size} bytes)")
    problems = [*_several(logs), *_of_log(found), *_of_name(directory), *_of_links(directory)]
    staged_bytes = 0
    for path, size in _staged(log, directory):
        if size is None:
            problems.append(Problem(f"artifact bytes are gone: {path}", lost=True))
        staged_bytes += size or 0
    return FoundRun(
        path=directory,
        log=log,
        identity=identity,
        verdict=_verdict(problems),
        problems=tuple(problems),
        run_id=found.run_id,
        entity=found.entity or None,
        project=found.project or None,
        name=found.display_name or None,
        started_s=found.start_time_s,
        finished=found.exit_code is not None,
        resume=found.resume or found.resumed,
        rows=found.rows,
        first_step=found.first_step,
        last_step=found.last_step,
        log_bytes=status.st_size,
        size_bytes=_size(directory) + staged_bytes,
        marked=Path(f"{log}.synced").exists(),
    )


def last_time_of_log_s(log: Path) -> float | None:
    """When the run of a log was last heard of, by its own clock: its exit, else its newest row. Raises OSError."""
    ended_s = _ended_s(facts(log, salvage=True))
    if ended_s is not None:
        return ended_s
    latest = None
    for row in rows(log, salvage=True):
        told = row.values.get("_timestamp")
        latest = float(told) if isinstance(told, (int, float)) else latest
    return latest


def is_prefix(shorter: Path, longer: Path) -> bool:
    """Whether one log is an earlier state, or a copy, of another."""
    with shorter.open("rb") as one, longer.open("rb") as other:
        while chunk := one.read(1 << 20):
            if other.read(len(chunk)) != chunk:
                return False
    return True


def _lost(directory: Path, log: Path | None, why: str) -> FoundRun:
    return FoundRun(directory, log, _by_path(directory), Verdict.LOST, (Problem(why, lost=True),))


def _by_path(directory: Path) -> str:
    return hashlib.sha256(b"path\0" + os.fsencode(directory)).hexdigest()


def _identity(log: Path) -> str | None:
    """The digest of the run record: it holds the run's id and its start to the nanosecond, and growth keeps it."""
    with LogReader(log, salvage=True) as reader:
        for record in reader:
            if record.kind == RecordKind.RUN:
                return hashlib.sha256(record.payload).hexdigest()
    return None


def _still_written(status: os.stat_result, found: LogFacts, held: set[tuple[int, int]], now_s: float) -> bool:
    if (status.st_dev, status.st_ino) in held:
        return True
    return not found.finished and 0 <= now_s - status.st_mtime < SETTLED_AFTER_S


def _ended_s(found: LogFacts) -> float | None:
    if found.exit_code is None or found.start_time_s is None:
        return None
    return found.start_time_s + found.runtime_s


def _several(logs: list[Path]) -> Iterator[Problem]:
    if len(logs) > 1:
        yield Problem(f"{len(logs)} logs in one directory; only {logs[0].name} is taken", lost=True)


def _of_log(found: LogFacts) -> Iterator[Problem]:
    if found.ending.kind is EndingKind.DAMAGED or found.damage:
        gone = f", {found.missing_records} records missing" if found.missing_records else ""
        yield Problem(f"the log is damaged ({found.damaged_bytes} bytes{gone}); the rest is delivered", lost=True)
    elif found.ending.kind is EndingKind.TORN:
        yield Problem("the log ends inside a record; the whole ones are delivered", lost=False)


def _of_name(directory: Path) -> Iterator[Problem]:
    if not directory.name.startswith("offline-run-"):
        what = "an online run" if directory.name.startswith("run-") else "a renamed directory"
        yield Problem(f"{what}, which `wandb sync` skips", lost=False)


def _of_links(directory: Path) -> Iterator[Problem]:
    for link in _links(directory / "files"):
        name = link.relative_to(directory).as_posix()
        target = os.readlink(link)
        if not os.path.exists(link):
            yield Problem(f"{name} is a link to a file that is gone: {target}", lost=True)
        elif not os.access(link, os.R_OK):
            yield Problem(f"{name} is a link to a file that can't be read: {target}", lost=True)


def _links(directory: Path) -> Iterator[Path]:
    for base, directories, files in os.walk(directory):
        for name in sorted((*directories, *files)):
            if os.path.islink(os.path.join(base, name)):
                yield Path(base, name)


def _staged(log: Path, directory: Path) -> Iterator[tuple[str, int | None]]:
    """Every file outside of the run directory that an artifact of the log needs, with its size; None: it is gone."""
    told: set[str] = set()
    for artifact in artifacts(log, salvage=True):
        for named in local_paths(artifact):
            if named in told:
                continue
            told.add(named)
            size = _readable_size(named)
            if size is None or not Path(named).is_relative_to(directory):
                yield named, size


def _readable_size(named: str) -> int | None:
    try:
        status = os.stat(named)
    except (OSError, ValueError):
        return None
    usable = os.path.isabs(named) and stat.S_ISREG(status.st_mode) and os.access(named, os.R_OK)
    return status.st_size if usable else None


def _verdict(problems: list[Problem]) -> Verdict:
    if any(problem.lost for problem in problems):
        return Verdict.DAMAGED
    return Verdict.MENDED if problems else Verdict.COMPLETE


def _size(directory: Path) -> int:
    """The bytes that a copy of the directory takes: links count as what they show."""
    total = 0
    for base, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except OSError:
                continue
    return total
