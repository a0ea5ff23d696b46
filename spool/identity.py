"""Who writes: a process that can be told from every other, and whether it still lives.

Exact on the same host, boot and pid namespace; dead when the host has booted since; *unknown* otherwise, where only the
sequence number of `alive`, observed twice on the observer's own clock, can tell (docs/format.md). Reads /proc; writes
nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class Life(Enum):
    """What is known about a process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Identity:
    """One process, identified across hosts, boots and pid reuse."""

    host: str
    boot_id: str
    pid_ns: str
    pid: int
    start_ticks: int
    slurm_job_id: str | None = None
    slurm_restart_count: int | None = None
    uid: int | None = None
    slurm_cluster: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Identity | None:
        """None when `value` is no identity: then nothing is known about the writer."""
        if not isinstance(value, dict):
            return None
        try:
            return cls(
                host=str(value["host"]),
                boot_id=str(value["boot_id"]),
                pid_ns=str(value["pid_ns"]),
                pid=int(value["pid"]),
                start_ticks=int(value["start_ticks"]),
                slurm_job_id=None if value.get("slurm_job_id") is None else str(value["slurm_job_id"]),
                slurm_restart_count=_optional_int(value.get("slurm_restart_count")),
                uid=_optional_int(value.get("uid")),
                slurm_cluster=None if value.get("slurm_cluster") is None else str(value["slurm_cluster"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None


def _optional_int(value: object) -> int | None:
    return int(value) if isinstance(value, (int, str)) and str(value).isdecimal() else None


def host_name() -> str:
    """The short host name in the letters that a launch's name may hold."""
    short = socket.gethostname().split(".")[0]
    kept = "".join(character if character.isascii() and character.isalnum() else "-" for character in short)
    return kept[:32] or "host"


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None if there is no such process (or only a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def current(environ: Mapping[str, str] | None = None) -> Identity:
    """The identity of this process."""
    env = os.environ if environ is None else environ
    job = env.get("SLURM_JOB_ID")
    if env.get("SLURM_ARRAY_JOB_ID") and env.get("SLURM_ARRAY_TASK_ID"):
        job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    pid = os.getpid()
    return Identity(
        host=host_name(),
        boot_id=boot_id(),
        pid_ns=pid_namespace(),
        pid=pid,
        start_ticks=start_ticks(pid) or 0,
        slurm_job_id=job,
        slurm_restart_count=_optional_int(env.get("SLURM_RESTART_COUNT")),
        uid=os.getuid(),
        slurm_cluster=env.get("SLURM_CLUSTER_NAME"),
    )


def life(identity: Identity) -> Life:
    """Whether the process lives, as far as this process can know it for certain."""
    if identity.host != host_name():
        return Life.UNKNOWN
    if identity.boot_id != boot_id():
        return Life.DEAD
    if identity.pid_ns != pid_namespace():
        return Life.UNKNOWN
    ticks = start_ticks(identity.pid)
    if ticks is None and identity.uid not in (None, os.getuid()) and start_ticks(1) is None:
        return Life.UNKNOWN  # this /proc hides the processes of others (hidepid)
    return Life.ALIVE if ticks == identity.start_ticks else Life.DEAD


def holders(path: Path) -> list[int]:
    """Pids of local processes that hold `path` open, as far as /proc lets us see (our own user's, or all as root)."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process / "fd", path.name, wanted):
            found.append(int(process.name))
    return found


def _holds(descriptors: Path, file_name: str, wanted: os.stat_result) -> bool:
    """The name is asked first, of the kernel: a look at a file on a file server that hangs would hang with it."""
    try:
        names = os.listdir(descriptors)
    except OSError:
        return False
    for name in names:
        try:
            if os.path.basename(os.readlink(descriptors / name)).removesuffix(" (deleted)") != file_name:
                continue
            seen = os.stat(descriptors / name)
        except OSError:
            continue
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
