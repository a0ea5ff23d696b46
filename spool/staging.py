"""Node-local first: a launch whose runs are written on a local disk and carried into the shared spool.

The stage has the layout of a launch directory (`wandb/`, `data/`). While the training runs, `Mirror.carry` brings what
is new into the launch directory every few seconds: logs by appending, signs of life in place, finished files as copies.
At the end `settle` brings the rest of one fragment, verified byte for byte; then the fragment is sealed like any other,
and the stage is removed when all of them are.

Guarantees: everything can be killed at any point and repeated; the stage is removed only when all that it holds is
sealed. If the node dies or its disk is purged, what was carried is sealed, and the loss is told: of logs and signs of
life at most the last `WINDOW_S`, of other files those that were younger or larger than could be carried by then.
Fails with `StorageError`; the fragment then stays *open*, and the stage.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import alive, durable
from .capture import Change, copy_descriptor, detach_links, digest_file, open_regular, regular_files
from .errors import SpoolError, StorageError, storage_error
from .identity import Life, boot_id, host_name, life
from .launches import Launch
from .layout import LaunchPaths, log_path
from .manifest import MANIFEST_NAME
from .queue import Spool

CARRY_EVERY_S = 3.0
WINDOW_S = 5.0
"""Between two carries, the flush of wandb's log, and a carry that takes a moment."""

_CHUNK_BYTES = 1 << 20
_DEBUG_LINK = "debug-core.log"
_LEFT_BEHIND = frozenset({"tmp"})  # wandb's scratch, and what the hook keeps aside until a run is finished


_PREFIX = "wandb-spool-"


@dataclass(frozen=True)
class Stage:
    """The local directory of one launch."""

    paths: LaunchPaths
    launch: LaunchPaths

    @classmethod
    def create(cls, directory: Path, launch: Launch) -> Stage:
        """Make the stage of a launch below `directory`. Raises StorageError."""
        stage = cls(LaunchPaths(directory / f"{_PREFIX}{launch.name}"), launch.paths)
        for path in (stage.paths.root, stage.paths.staged):
            durable.make_directory(path)
        body = launch.record()
        place = {"path": str(stage.paths.root), "host": host_name(), "boot_id": boot_id(), "window_s": WINDOW_S}
        durable.write_json(launch.paths.record, {**body, "stage": place})
        return stage

    @classmethod
    def of(cls, launch: Launch) -> Stage | None:
        """The stage of a launch, if it has one and it lies on this host."""
        place = launch.record().get("stage")
        if not isinstance(place, dict) or place.get("host") != host_name() or not place.get("path"):
            return None
        stage = cls(LaunchPaths(Path(str(place["path"]))), launch.paths)
        return stage if stage.paths.root.is_dir() else None

    def remove_if_sealed(self) -> bool:
        """Remove the stage if every fragment in it is sealed in the spool; returns whether it is gone."""
        for directory in self.paths.fragments():
            if not (self.launch.wandb / directory.name / MANIFEST_NAME).is_file():
                return False
        shutil.rmtree(self.paths.root, ignore_errors=True)
        return not self.paths.root.exists()


def remove_left_behind(directory: Path, spool: Spool) -> None:
    """Remove the stages below `directory` whose launcher was killed after it had sealed all that they hold."""
    for path in directory.glob(f"{_PREFIX}*"):
        root = spool.paths.launch(path.name[len(_PREFIX) :])
        launch = Launch.at(spool, root)
        try:
            stage = Stage.of(launch)
            if stage is not None and stage.paths.root == path and _is_over(launch):
                stage.remove_if_sealed()
        except (OSError, SpoolError):
            continue  # it stays for another time


def _is_over(launch: Launch) -> bool:
    owner = launch.owner()
    return owner is not None and life(owner) is Life.DEAD and not launch.is_inhabited()


def in_launch(named: str, launch: Launch) -> str:
    """A path that a log names, as it is in the launch directory: what lay on the stage was carried there."""
    place = launch.record().get("stage")
    root = str(place.get("path")).rstrip("/") + "/" if isinstance(place, dict) else None
    if root is None or not named.startswith(root) or ".." in Path(named).parts:
        return named
    carried = launch.paths.root / named[len(root) :]
    return str(carried) if carried.is_file() and not carried.is_symlink() else named


@dataclass
class Mirror:
    """Carries what is new from a stage into its launch directory. One process, again and again."""

    stage: Stage
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _carried: dict[str, tuple[int, int]] = field(default_factory=dict)

    def carry(self) -> None:
        """One round: what can't be carried now is tried in the next."""
        for directory in self.stage.paths.fragments():
            try:
                target = self.stage.launch.wandb / directory.name
                if not (target / MANIFEST_NAME).exists():
                    self._carry_fragment(directory, target)
            except (OSError, SpoolError):
                continue
        self._carry_finished(self.stage.paths.staged, self.stage.launch.staged)

    def _carry_fragment(self, source: Path, target: Path) -> None:
        durable.make_directory(target)
        log = log_path(source)
        if log is not None:
            append(log, target / log.name)
        if (source / alive.SHARED_NAME).exists():
            (target / alive.SHARED_NAME).touch(0o600)
        copy_sign(source, target)  # after the log: it counts at least the rows that were carried
        self._carry_finished(source / "files", target / "files")

    def _carry_finished(self, source: Path, target: Path) -> None:
        """Copy the files that did not change since the last round."""
        for path in _files(source):
            try:
                status = path.stat()
                mark = (status.st_size, status.st_mtime_ns)
                if self._carried.get(str(path)) != mark and self._sizes.get(str(path)) == mark:
                    _copy(path, target / path.relative_to(source))
                    self._carried[str(path)] = mark
                self._sizes[str(path)] = mark
            except (OSError, ValueError, SpoolError):
                continue


def append(source: Path, target: Path) -> int:
    """Bring what `source` has more than `target`; returns how many bytes. Durable. Raises OSError, ValueError."""
    reading = open_regular(source)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return _append(reading, writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _append(reading: int, writing: int) -> int:
    start = at = os.fstat(writing).st_size
    while chunk := os.pread(reading, _CHUNK_BYTES, at):
        # At its offset, not at the end: two processes that carry at once write the same bytes to the same place.
        at += os.pwrite(writing, chunk, at)
    if at > start:
        os.fsync(writing)
    return at - start


def copy_sign(source: Path, target: Path) -> None:
    """Bring the sign of life: a line that can't be believed is not brought."""
    sign = alive.read(source)
    if sign is None or sign == alive.read(target):
        return
    fd = os.open(target / "alive", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, sign.encode(), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def settle(stage: Stage, name: str) -> None:
    """Bring all of one fragment and of the staged artifact bytes, and compare it. Raises StorageError.

    Its writer is gone. Without the stage's copy (a purged disk) what was carried stays as it is.
    """
    source, target = stage.paths.wandb / name, stage.launch.wandb / name
    if not source.is_dir() or (target / MANIFEST_NAME).exists():
        return
    try:
        debug = source / "logs" / _DEBUG_LINK
        if debug.is_symlink():
            debug.unlink()  # a log that all runs of this user share
        detach_links(source, within=stage.paths.root, follow_outside=True)
        durable.make_directory(target)
        for path in _files(source):
            if path.parts[len(source.parts)] not in _LEFT_BEHIND:
                _bring(path, target / path.relative_to(source))
        for path in _files(stage.paths.staged):
            _bring(path, stage.launch.staged / path.relative_to(stage.paths.staged))
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        problem = error if isinstance(error, OSError) else OSError(str(error))
        raise storage_error("bring in from the stage", source, problem) from error


def _bring(source: Path, target: Path) -> None:
    """Make `target` what `source` is, and prove it."""
    wanted = digest_file(source)
    if _digest(target) != wanted:
        if source.suffix == ".wandb" and target.is_file():
            append(source, target)
        if _digest(target) != wanted:
            _copy(source, target)
            if _digest(target) != wanted:
                raise OSError(f"the copy of {source.name} is not what it was")


def _digest(path: Path) -> tuple[int, str] | None:
    try:
        return digest_file(path)
    except (FileNotFoundError, ValueError):
        return None


def _copy(source: Path, target: Path) -> None:
    durable.make_directory(target.parent)
    fd = open_regular(source)
    try:
        copy_descriptor(fd, target)
    finally:
        os.close(fd)


def _files(directory: Path) -> Iterator[Path]:
    """Regular files of their own; a link is brought in at the end, when what it shows is settled."""
    for path in regular_files(directory):
        try:
            if path.lstat().st_nlink == 1 and stat.S_ISREG(path.lstat().st_mode):
                yield path
        except FileNotFoundError:
            continue


def writers_log(launch: Launch, run_directory: Path) -> Path | None:
    """The log that the writer of a fragment holds open: on the stage, if there is one here."""
    stage = Stage.of(launch)
    staged = None if stage is None else log_path(stage.paths.wandb / run_directory.name)
    return log_path(run_directory) if staged is None else staged


def grew(launch: Launch, run_directory: Path) -> bool:
    """Whether the stage, back in sight, holds more of a log than was carried."""
    stage = Stage.of(launch)
    staged = None if stage is None else log_path(stage.paths.wandb / run_directory.name)
    carried = log_path(run_directory)
    try:
        return staged is not None and (carried is None or staged.stat().st_size > carried.stat().st_size)
    except OSError:
        return False


def losses(launch: Launch, name: str) -> list[Change]:
    """What is to be told of a staged fragment whose stage can't be read (any more) from here."""
    place = launch.record().get("stage")
    stage = Stage.of(launch)
    if not isinstance(place, dict) or (stage is not None and (stage.paths.wandb / name).is_dir()):
        return []
    what = (
        f"missing: its stage on {place.get('host')} could not be read; what was logged in the last "
        f"{place.get('window_s', WINDOW_S)} s, and files that were not carried by then, are lost"
    )
    return [Change(f"wandb/{name}", what)]
