"""How fast a destination may be pushed to: `rate` runs a minute, and slower when the server says 429.

What is remembered lies in this host's cache, so that passes from cron and a daemon's helpers keep to one pace. Losing
it costs a few runs too many. The clock is that of this host; a time that no pace could have set is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wandb_spool.spool.observations import cache_directory

SLICE_S = 15.0
"""A batch holds no more runs than the rate allows in this time."""
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 600.0


@dataclass(frozen=True)
class Pace:
    """Of one destination."""

    free_s: float = 0.0
    """When the rate allows the next push."""
    paused_s: float = 0.0
    """Until when the server wants to be left alone."""
    pause_s: float = 0.0
    """The last pause; the next one is twice as long."""


def batch_runs(rate: float | None, most: int) -> int:
    """How many runs one push may carry."""
    return most if rate is None else max(1, min(most, int(rate * SLICE_S / 60)))


def after_push(pace: Pace, runs: int, rate: float | None, now_s: float) -> Pace:
    """The server took a push of so many runs."""
    return Pace(free_s=now_s + runs * 60 / rate) if rate else replace(pace, paused_s=0.0, pause_s=0.0)


def after_refusal(pace: Pace, retry_after_s: float | None, now_s: float) -> Pace:
    """The server said 429: twice as long as last time, and at least as long as it asked for."""
    pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pace.pause_s, retry_after_s or 0.0))
    return replace(pace, paused_s=now_s + pause_s, pause_s=pause_s)


def rate_wait_s(pace: Pace, rate: float | None, now_s: float) -> float:
    """Seconds until the rate allows a push."""
    longest_s = max(SLICE_S, 60 / rate) if rate else 0.0
    wait_s = pace.free_s - now_s
    return wait_s if 0 < wait_s <= longest_s else 0.0


def pause_left_s(pace: Pace, now_s: float) -> float:
    """Seconds of a pause that are left."""
    left_s = pace.paused_s - now_s
    return left_s if 0 < left_s <= LONGEST_PAUSE_S else 0.0


def load_pace(base_url: str) -> Pace:
    try:
        body = json.loads(_path(base_url).read_bytes())
        return Pace(**{name: float(body[name]) for name in ("free_s", "paused_s", "pause_s")})
    except (OSError, ValueError, TypeError, KeyError):
        return Pace()


def save_pace(base_url: str, pace: Pace) -> None:
    path = _path(base_url)
    try:
        if pace == Pace():
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(pace)))
        temporary.replace(path)
    except OSError:
        pass  # a cache that can't be written: this process alone keeps the pace


def _path(base_url: str) -> Path:
    return cache_directory() / f"pace-{hashlib.sha256(base_url.encode()).hexdigest()[:16]}.json"
