"""A look at the spool's disk before training, and while it runs: is there room, and who else can see it?

Guarantees: never raises and never waits for a file server that does not answer: the first touch is made by a child
process, which is left behind if it hangs. Judging is pure.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.words import size

FIRST_TOUCH_S = 20.0
LOW_BYTES = 1 << 30
LOW_INODES = 5000

_MEMORY = frozenset({"tmpfs", "ramfs"})
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "aufs"}) | _MEMORY
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID")


@dataclass(frozen=True)
class Disk:
    """What a file system tells of itself; None where it does not count."""

    kind: str
    free_bytes: int
    free_inodes: int | None


def look(path: Path) -> Disk | None:
    """The file system of a directory that exists; None where it can't be asked."""
    try:
        found = os.statvfs(path)
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        kind = filesystem(mounts.splitlines(), os.path.realpath(path))
    except OSError:
        return None
    # Some parallel and all copy-on-write file systems say 0 of 0: they have no table of inodes.
    return Disk(kind, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def filesystem(mountinfo: Iterable[str], path: str) -> str:
    """The type of the file system that holds a path; empty if no mount does."""
    best, kind = "", ""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        fields, described = before.split(" "), after.split(" ")
        if len(fields) < 5 or not described[0]:
            continue
        point = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, described[0]
    return kind


def concerns(root: Path, disk: Disk | None, environ: Mapping[str, str]) -> str | None:
    """One line about what may become a problem, or None."""
    if disk is None:
        return None
    told = list(_room(disk))
    if any(environ.get(name) for name in _JOBS):
        told += _visibility(disk)
    return f"WARNING: the spool {root} {'; it '.join(told)}" if told else None


def _room(disk: Disk) -> Iterable[str]:
    if disk.free_bytes < LOW_BYTES:
        yield f"has only {size(disk.free_bytes)} free: when it is full, training goes on and rows are lost"
    if disk.free_inodes is not None and disk.free_inodes < LOW_INODES:
        yield f"has room for only {disk.free_inodes} more files"


def _visibility(disk: Disk) -> Iterable[str]:
    if disk.kind in _MEMORY:
        yield "lies in this node's memory, and is gone with its next boot"
    elif disk.kind in _LOCAL:
        yield f"lies on a disk of this node ({disk.kind}): if no other host sees it, nobody can sync it from elsewhere"


@dataclass
class Guard:
    """Watches the room while the command runs, and warns once."""

    root: Path
    told: bool = False

    def look(self) -> str | None:
        """The warning, the first time that room is short."""
        if self.told:
            return None
        disk = look(self.root)
        if disk is None or disk.free_bytes >= LOW_BYTES:
            return None
        self.told = True
        return (
            f"WARNING: only {size(disk.free_bytes)} are free in {self.root}: when it is full, training goes on "
            "and rows are lost until there is room again"
        )


def answers(path: Path, timeout_s: float = FIRST_TOUCH_S) -> bool:
    """Whether the file system of a path answers at all. A hung one would hold its caller for ever."""
    pid = os.fork()
    if pid == 0:
        try:
            _touch(path)
        finally:
            os._exit(0)
    deadline, pause_s = time.monotonic() + timeout_s, 0.0005
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)  # it goes when its call returns
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    return True


def _touch(path: Path) -> None:
    """What the launcher does first: whether it succeeds is the launcher's business."""
    try:
        os.listdir(path if path.exists() else path.parent)
        os.statvfs(path if path.exists() else path.parent)
    except OSError:
        pass
