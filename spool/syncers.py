"""Who syncs this spool: one small file a host, written after every pass, read by `status` and by the end of a run.

Times are of the host that wrote them and are only shown; nothing is decided by them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from . import clock, durable
from .errors import SpoolError
from .identity import host_name
from .layout import FORMAT
from .queue import Spool


@dataclass(frozen=True)
class Syncer:
    """The last pass that a host made over the spool."""

    host: str
    at: str | None
    result: str | None
    version: str | None
    extra: dict[str, Any]

    def age_s(self, now_s: float) -> float | None:
        then = clock.seconds(self.at)
        return None if then is None else max(0.0, now_s - then)

    def as_json(self) -> dict[str, Any]:
        return {**self.extra, "host": self.host, "at": self.at, "result": self.result, "version": self.version}


def note_pass(spool: Spool, result: str, version: str, *, now_s: float | None = None, **extra: Any) -> None:
    """Write that this host made a pass. Raises StorageError."""
    now = time.time() if now_s is None else now_s
    body = {
        "format": FORMAT,
        **extra,
        "host": host_name(),
        "at": clock.iso(now),
        "result": result,
        "version": version,
    }
    durable.make_directory(spool.paths.syncers)
    durable.write_json(spool.paths.syncers / f"{host_name()}.json", body, mode=spool.file_mode)


def read_syncers(spool: Spool) -> list[Syncer]:
    """Every host that ever made a pass, the latest first. Files that can't be read are left out."""
    found: list[Syncer] = []
    try:
        paths = sorted(spool.paths.syncers.glob("[!.]*.json"))
    except OSError:
        return []
    for path in paths:
        try:
            found.append(_syncer(path.stem, durable.read_json(path)))
        except (OSError, ValueError, SpoolError):
            continue
    return sorted(found, key=lambda syncer: syncer.at or "", reverse=True)


def _syncer(host: str, body: dict[str, Any]) -> Syncer:
    known = ("format", "host", "at", "result", "version")

    def text(key: str) -> str | None:
        value = body.get(key)
        return value if isinstance(value, str) else None

    extra = {key: value for key, value in body.items() if key not in known}
    return Syncer(text("host") or host, text("at"), text("result"), text("version"), extra)
