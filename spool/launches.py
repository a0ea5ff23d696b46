"""Launches: the directory that one `wandb-spool run` owns, and the room reserved in it for the seal.

Guarantee: a launch's name never repeats; a launch in which no run started leaves nothing behind (`discard_if_empty`).
Fails with `StorageError`; a launcher that can't make one runs its command without a spool.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import clock, durable
from .errors import StorageError, storage_error
from .identity import Identity, current, start_ticks
from .layout import FORMAT, LaunchPaths, new_launch_name
from .queue import Spool

RESERVE_BYTES = 8 << 20  # entry and manifest of a run with some ten thousand files


@dataclass(frozen=True)
class Launch:
    """One launch directory."""

    spool: Spool
    name: str
    paths: LaunchPaths

    @classmethod
    def create(
        cls, spool: Spool, command: Sequence[str], *, now_s: float | None = None, extra: dict[str, Any] | None = None
    ) -> Launch:
        """Make a launch directory with its record and its reserve. Raises StorageError."""
        now = time.time() if now_s is None else now_s
        name, paths = _new_directory(spool, now)
        body = {
            "format": FORMAT,
            "launch": name,
            "created": clock.iso(now),
            "command": list(command),
            "writer": current().as_json(),
            **(extra or {}),
        }
        try:
            for directory in (paths.markers, paths.staged):
                durable.make_directory(directory)
            durable.write_json(paths.record, body)
            _reserve(paths.reserve)
        except StorageError:
            shutil.rmtree(paths.root, ignore_errors=True)  # a disk that is full needs no half-made launches
            raise
        return cls(spool, name, paths)

    @classmethod
    def at(cls, spool: Spool, root: Path) -> Launch:
        """The launch that lies in this directory."""
        return cls(spool, root.name, LaunchPaths(root))

    def record(self) -> dict[str, Any]:
        """launch.json, or an empty object where it is missing or damaged: nothing depends on it."""
        try:
            return durable.read_json(self.paths.record)
        except (FileNotFoundError, ValueError):
            return {}

    def owner(self) -> Identity | None:
        return Identity.from_json(self.record().get("writer"))

    @property
    def holds(self) -> bool:
        """Whether a person asked, with `run --hold`, to look at its runs before they are sent."""
        return self.record().get("hold") is True

    def hooked_processes(self) -> int:
        """How many processes loaded the start-up hook and imported wandb."""
        try:
            return sum(1 for name in os.listdir(self.paths.markers) if not name.startswith("."))
        except OSError:
            return 0

    def is_inhabited(self) -> bool:
        """Whether a process that loaded the start-up hook lives on this host: it may begin a run yet."""
        processes = (marker.name.partition("-") for marker in self.paths.markers.glob("[0-9]*-*"))
        return any(start_ticks(int(pid)) == int(ticks) for pid, _, ticks in processes)

    def free_reserve(self) -> None:
        """Give the reserved room back to the disk, for the seal."""
        durable.remove(self.paths.reserve)

    def discard_if_empty(self) -> bool:
        """Remove the launch if no run was started in it; returns whether it is gone."""
        if self.paths.fragments():
            return False
        try:
            if any(self.paths.staged.iterdir()):
                return False
        except FileNotFoundError:
            pass
        shutil.rmtree(self.paths.root, ignore_errors=True)
        return not self.paths.root.exists()


def _new_directory(spool: Spool, now_s: float) -> tuple[str, LaunchPaths]:
    """A directory that nobody had before: of two launches with one name, the second draws again."""
    while True:
        name = new_launch_name(now_s)
        try:
            durable.make_directory(spool.paths.launch(name), new=True)
        except FileExistsError:
            continue
        return name, LaunchPaths(spool.paths.launch(name))


def _reserve(path: Path) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise storage_error("reserve room for the seal", path, error) from error
    try:
        os.posix_fallocate(fd, 0, RESERVE_BYTES)
    except OSError as error:
        if error.errno not in (22, 95):  # EINVAL, EOPNOTSUPP: the file system can't reserve; then there is no reserve
            raise storage_error("reserve room for the seal", path, error) from error
    finally:
        os.close(fd)
