"""Who writes: the identity of this process (docs/format.md, "Identity of a writer")."""

from __future__ import annotations

import os
import socket
from typing import Any, Dict, Optional


def _read(path: str) -> Optional[str]:
    try:
        with open(path) as file:
            return file.read().strip() or None
    except OSError:
        return None


def start_ticks() -> int:
    """Field 22 of /proc/self/stat; the name in field 2 may hold spaces and brackets."""
    stat = _read("/proc/self/stat") or ""
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 0


def _slurm_job_id() -> Optional[str]:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def _host_name() -> str:
    """The short name in the letters that a launch's name may hold."""
    short = socket.gethostname().split(".")[0]
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in short)
    return kept[:32] or "host"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _restart_count() -> Optional[int]:
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else None


def writer() -> Dict[str, Any]:
    return {
        "host": _host_name(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id") or "unknown",
        "pid_ns": _pid_namespace(),
        "pid": os.getpid(),
        "start_ticks": start_ticks(),
        "slurm_job_id": _slurm_job_id(),
        "slurm_restart_count": _restart_count(),
        "uid": os.getuid(),
        "slurm_cluster": os.environ.get("SLURM_CLUSTER_NAME"),
    }
