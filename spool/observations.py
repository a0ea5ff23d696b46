"""What this host saw of other hosts' signs of life, kept between one-shot passes on this host's own disk.

A cache: losing it costs one more staleness period, never a wrong verdict. Times are this host's monotonic clock, so
they mean nothing after the next boot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from .identity import boot_id
from .leases import LeaseWatch
from .queue import Spool


def cache_directory() -> Path:
    """Where caches of this user on this host lie."""
    return Path(os.environ.get("WANDB_SPOOL_CACHE_DIR") or platformdirs.user_cache_dir("wandb-spool"))


def load_observations(spool: Spool) -> dict[str, tuple[int, float]]:
    """Name → (sequence number, time first seen). Empty when there is no cache or it is damaged."""
    try:
        body = json.loads(_path(spool).read_bytes())
        if body["boot_id"] != boot_id():
            return {}
        return {str(name): (int(sequence), float(seen_s)) for name, (sequence, seen_s) in body["seen"].items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def save_observations(spool: Spool, seen: Mapping[str, tuple[int, float]]) -> None:
    """Keep the observations; a home directory that can't be written only costs time."""
    path = _path(spool)
    if seen or path.exists():
        _save(path, {"boot_id": boot_id(), "seen": dict(seen)})


def _save(path: Path, body: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(body))
        temporary.replace(path)
    except OSError:
        pass  # a home directory that can't be written only costs time


def load_lease_watch(spool: Spool) -> LeaseWatch:
    """What one-shot passes of this boot saw of other people's leases (their monotonic clock is the same one)."""
    watch = LeaseWatch()
    try:
        body = json.loads(_path(spool, "leases").read_bytes())
        if body["boot_id"] == boot_id():
            watch.seen = {
                Path(path): (str(token), int(sequence), float(seen_s))
                for path, (token, sequence, seen_s) in body["seen"].items()
            }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return watch


def save_lease_watch(spool: Spool, watch: LeaseWatch) -> None:
    seen = {str(path): mark for path, mark in watch.seen.items() if path.exists()}
    if seen or _path(spool, "leases").exists():
        _save(_path(spool, "leases"), {"boot_id": boot_id(), "seen": seen})


def _path(spool: Spool, what: str = "seen") -> Path:
    return cache_directory() / f"{spool.spool_id}.{what}.json"
