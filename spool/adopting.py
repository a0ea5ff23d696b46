"""Bring run directories that wandb left elsewhere into the spool, as sealed fragments.

Guarantees
* `COPY` changes nothing of theirs. `MOVE` and `IN_PLACE` rename a run directory; what has to be copied (another file
  system, links that would break) is deleted at its old place only when the fragment is sealed and its entry is durable.
* Whatever happens in between, a run directory is at its old place or in the spool, never half in: copies are made under
  a name that nobody takes for a fragment. Adopting again goes on where it stopped and takes nothing twice.
* Bytes that a log names elsewhere (staged artifacts, targets of links) come along; what is gone stands in the manifest.

Fails with StorageError (the disk), for one run directory at a time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from . import clock, durable
from .adoptions import Adoption, note
from .capture import copy_bytes, open_regular
from .entry import Entry, Replay
from .errors import StorageError, UsageError, storage_error
from .found_runs import FoundRun
from .identity import current
from .layout import FORMAT, FRAGMENT_NAME, LaunchPaths, new_launch_name
from .log import artifacts
from .queue import Place, Spool
from .seal import SEALED_ELSEWHERE, local_paths, seal_fragment, share
from .states import State

_SKIPPED = frozenset({"debug-core.log"})  # a link into the user's cache, to a log that all runs share


class Mode(str, Enum):
    """How a run directory comes into the spool."""

    COPY = "copy"
    MOVE = "move"
    IN_PLACE = "in-place"
    """Move, and leave a link at the old place, so that paths and plain `wandb sync` go on working."""


class Grown(Exception):
    """The log changed while it was being adopted: its run still writes."""


@dataclass(frozen=True)
class Placement:
    """What was decided about one run directory."""

    run: FoundRun
    predecessor: str | None = None
    hold: str | None = None
    """Why a person has to look at it first."""
    own_id: str | None = None
    """Deliver it as a run of its own, under this id."""


@dataclass(frozen=True)
class AdoptedLaunch:
    """The launch directory that stands for one directory in which wandb made runs."""

    name: str
    paths: LaunchPaths
    source: Path


def make_launch(spool: Spool, source: Path, *, now_s: float | None = None) -> AdoptedLaunch:
    """A launch whose writer is this adopter. Raises StorageError."""
    now = time.time() if now_s is None else now_s
    name = new_launch_name(now)
    paths = LaunchPaths(spool.paths.launch(name))
    durable.make_directory(paths.wandb)
    durable.make_directory(paths.staged)
    record: dict[str, Any] = {
        "format": FORMAT,
        "launch": name,
        "created": clock.iso(now),
        "command": None,
        "writer": current().as_json(),
        "made_by": "adopt",
        "adopted_from": str(source),
    }
    durable.write_json(paths.record, record, mode=spool.file_mode)
    return AdoptedLaunch(name, paths, source)


def fragment_name(run: FoundRun) -> str:
    """The name that wandb gave; for a renamed directory the one that wandb would have given."""
    if FRAGMENT_NAME.match(run.path.name):
        return run.path.name
    stamp = clock.compact(run.started_s or 0.0).replace("T", "_")
    run_id = "".join(character if character.isalnum() or character in "_.-" else "-" for character in run.run_id or "x")
    return f"offline-run-{stamp}-{run_id[:128]}"


def same_file_system(path: Path, root: Path) -> bool:
    """Whether a run directory can be renamed into a spool, which may still have to be made."""
    return path.stat().st_dev == _existing(root).stat().st_dev


def _existing(root: Path) -> Path:
    return next(path for path in (root, *root.parents) if path.exists())


def require_room(root: Path, wanted_bytes: int) -> None:
    """Raise UsageError when copies of so many bytes would not fit. Reflinks may need less; nobody can know before."""
    free = shutil.disk_usage(_existing(root)).free
    if wanted_bytes > free:
        from .words import size

        raise UsageError(
            f"{size(wanted_bytes)} have to be copied and only {size(free)} are free; nothing was adopted",
            path=root,
            hint="--move or --in-place on the same file system copy nothing; or adopt a part of it",
        )


def adopt(spool: Spool, launch: AdoptedLaunch, placement: Placement, mode: Mode) -> Place:
    """Bring one run directory in and seal it; returns where its entry stands.

    Raises Grown, StorageError, or FileNotFoundError when the run directory vanished meanwhile.
    """
    run = placement.run
    directory = launch.paths.wandb / fragment_name(run)
    entry = _entry(spool, launch, placement, directory, mode)
    adoption = Adoption(run.identity, str(run.path), entry.name, run.log_bytes, done=False)
    note(spool, [adoption])
    copied = _bring(spool, run, launch, entry, directory, mode)
    opened = Place(entry.name, State.OPEN, str(spool.paths.entry(State.OPEN, entry.name)))
    try:
        place = seal_fragment(spool, opened, hook=False)
    except StorageError as error:
        raise StorageError(f"came in as {entry.name}, and is not sealed yet ({error})") from error
    note(spool, [replace(adoption, done=True)])
    if copied and mode is not Mode.COPY:
        _remove(run.path)
        if mode is Mode.IN_PLACE:
            os.symlink(directory, run.path)
    return place


def _entry(spool: Spool, launch: AdoptedLaunch, placement: Placement, directory: Path, mode: Mode) -> Entry:
    run = placement.run
    adopted = {"from": str(run.path), "identity": run.identity, "marked": run.marked, "by": os.getuid()}
    if mode is Mode.IN_PLACE:
        adopted["link"] = True  # for whoever finishes a killed adoption
    name = f"{launch.name}.{directory.name}"
    return Entry(
        name=name,
        launch=launch.name,
        fragment=directory.name,
        path=directory.relative_to(spool.root).as_posix(),
        created=clock.iso(run.started_s if run.started_s is not None else time.time()),
        run_id=run.run_id,
        project=run.project,
        entity=run.entity,
        display_name=run.name,
        predecessor=placement.predecessor,
        replay=None if placement.own_id is None else Replay(run_id=placement.own_id),
        writer=current(),
        extra={"adopted": adopted, **_aside(run, name, placement.hold)},
    )


def _bring(spool: Spool, run: FoundRun, launch: AdoptedLaunch, entry: Entry, directory: Path, mode: Mode) -> bool:
    """Put the run directory and its entry in place; returns whether that took a copy."""
    rename = mode is not Mode.COPY and same_file_system(run.path, spool.root) and not _has_relative_links(run.path)
    if rename:
        _keep_own_artifact_bytes(run, launch)
        _come_in(spool, entry, run.path, directory)
        if mode is Mode.IN_PLACE:
            os.symlink(directory, run.path)
        share(spool, directory)
        return False
    temporary = directory.parent / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        _copy_tree(run.path, temporary, spool)
        if run.log is not None and run.log.stat().st_size != run.log_bytes and run.log_bytes:
            raise Grown
        _come_in(spool, entry, temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return True


def _come_in(spool: Spool, entry: Entry, source: Path, directory: Path) -> None:
    """The entry first: what is in the spool is known to it. Where the run must stay (another's), no entry does."""
    place = spool.add(entry)
    try:
        durable.rename(source, directory)
    except StorageError:
        if not directory.exists():
            durable.remove(spool.claim(place).path)
        raise


def _has_relative_links(directory: Path) -> bool:
    """wandb makes absolute ones; a relative one would show something else from another place."""
    for base, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = os.path.join(base, name)
            if os.path.islink(path) and not os.path.isabs(os.readlink(path)):
                return True
    return False


def _keep_own_artifact_bytes(run: FoundRun, launch: AdoptedLaunch) -> None:
    """Artifact bytes that a log names within its own run directory, which is about to have another name."""
    if run.log is None:
        return
    for artifact in artifacts(run.log, salvage=True):
        for named in local_paths(artifact):
            if Path(named).is_relative_to(run.path) and os.path.isfile(named):
                kept = launch.paths.staged / SEALED_ELSEWHERE / hashlib.sha256(named.encode()).hexdigest()[:16]
                durable.make_directory(kept)
                _copy_file(Path(named), kept / Path(named).name, 0o600)


def _copy_tree(source: Path, target: Path, spool: Spool) -> None:
    """Copy a run directory; links become what they show, and those that show nothing stay for the seal to tell."""
    durable.make_directory(target)
    with os.scandir(source) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        path = Path(entry.path)
        if entry.name in _SKIPPED and entry.is_symlink():
            continue
        if entry.is_dir(follow_symlinks=False):
            _copy_tree(path, target / entry.name, spool)
        elif entry.is_file() and os.access(path, os.R_OK):
            _copy_file(path, target / entry.name, spool.file_mode)
        elif entry.is_symlink():
            os.symlink(os.path.realpath(path), target / entry.name)
    durable.sync_directory(target)


def _copy_file(source: Path, target: Path, mode: int) -> None:
    """The seal makes the bytes durable."""
    try:
        fd = open_regular(source, follow=True)
    except ValueError:
        return
    try:
        out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            copy_bytes(fd, out)
            os.utime(out, ns=(os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns))
        finally:
            os.close(out)
    except OSError as error:
        raise storage_error("copy", target, error) from error
    finally:
        os.close(fd)


def _aside(run: FoundRun, name: str, why: str | None) -> dict[str, Any]:
    """In the entry from the beginning: a doubtful one is held, also where another process has to seal it."""
    if why is None:
        return {}
    mend = (
        f"`wandb-spool release {run.run_id}` sends these fragments as one run, by their starts; "
        f"`wandb-spool replay {name} --id NEW_ID` sends this one as a run of its own"
    )
    return {"hold": {"reason": f"doubtful: {why}", "mend": mend}}


def _remove(directory: Path) -> None:
    """What was copied and sealed goes from its old place. A rest that can't be removed is harmless."""
    shutil.rmtree(directory, ignore_errors=True)


__all__ = [
    "AdoptedLaunch",
    "Grown",
    "Mode",
    "Placement",
    "StorageError",
    "adopt",
    "fragment_name",
    "make_launch",
    "require_room",
    "same_file_system",
]
