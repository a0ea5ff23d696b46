"""Times as the spool writes them: UTC, ISO 8601, `Z`. For people; decisions take their clock as an argument."""

from __future__ import annotations

import math
from datetime import datetime, timezone


def iso(timestamp: float) -> str:
    """Seconds since the epoch as `2026-11-21T04:50:01.123Z`."""
    moment = datetime.fromtimestamp(timestamp, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def seconds(text: str | None) -> float | None:
    """The reverse of `iso`; None for what is no time, because a time is never worth an exception here."""
    if not isinstance(text, str):
        return None
    try:
        value = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def month(timestamp: float) -> str:
    """`YYYYMM`, the name of a month's directory."""
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y%m")


def compact(timestamp: float) -> str:
    """`YYYYMMDDTHHMMSS`, the beginning of a launch's name."""
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y%m%dT%H%M%S")
