"""Who syncs this spool: one small file a host, written by its syncer after every pass, read by `status` and `run`.

Times are of the host that wrote them and are only shown; nothing is decided by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import clock, durable
from .errors import SpoolError
from .queue import Spool


@dataclass(frozen=True)
class Syncer:
    """The last pass that a host made over the spool."""

    host: str
    body: dict[str, Any]

    @property
    def at(self) -> str | None:
        value = self.body.get("at")
        return value if isinstance(value, str) else None

    def age_s(self, now_s: float) -> float | None:
        then = clock.seconds(self.at)
        return None if then is None else max(0.0, now_s - then)

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        """What each server said when this host asked it last: `at`, and `said` where it could not be used."""
        found = self.body.get("servers")
        return (
            {str(url): said for url, said in found.items() if isinstance(said, dict)} if isinstance(found, dict) else {}
        )

    @property
    def result(self) -> str:
        """What the pass did, in a few words; empty when it did nothing and nothing was wrong."""
        parts = [f"{self.body[key]} {key}" for key in ("delivered", "deferred", "quarantined") if self.body.get(key)]
        outages = self.body.get("outages")
        if isinstance(outages, dict):
            parts += [f"{name} {str(what).partition(':')[0]}" for name, what in outages.items()]
        return ", ".join(parts)


def read_syncers(spool: Spool) -> list[Syncer]:
    """Every host that ever made a pass, the latest first. Files that can't be read are left out."""
    found: list[Syncer] = []
    try:
        paths = sorted(spool.paths.syncers.glob("[!.]*.json"))
    except OSError:
        return []
    for path in paths:
        try:
            body = durable.read_json(path)
        except (OSError, ValueError, SpoolError):
            continue
        found.append(Syncer(str(body.get("host") or path.stem), body))
    return sorted(found, key=lambda syncer: syncer.at or "", reverse=True)
