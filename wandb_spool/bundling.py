"""What `pack` and `unpack` share: the words of a person (times, sizes), the bar on a terminal, the lines at the end."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wandb_spool.output import complain, emit
from wandb_spool.spool import clock
from wandb_spool.spool.bundle_pack import Left, Progress
from wandb_spool.spool.errors import UsageError

PARTLY = 3
DAMAGED = 4

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)")
_AGES_S = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def since_s(text: str, now_s: float) -> float:
    """`2026-11-21`, `2026-11-21T04:50:00Z` (UTC), or an age: `3d`, `12h`. Raises UsageError."""
    match = _AGE.fullmatch(text.strip())
    if match:
        return now_s - float(match[1]) * _AGES_S[match[2]]
    zone = "" if re.search(r"T.*(?:Z|[+-]\d\d:?\d\d)$", text) else ("Z" if "T" in text else "T00:00:00Z")
    found = clock.seconds(text.strip() + zone)
    if found is None:
        raise UsageError(f"{text!r} is no time", hint="say a date (2026-11-21) or an age (3d, 12h)")
    return found


def size_bytes(text: str) -> int:
    """`4G`, `700MB` (decimal), `4GiB` (binary). Raises UsageError."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is no size", hint="say for example 4G, 700MB or 4GiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _POWERS[match[2]])


@contextmanager
def progress(what: str) -> Iterator[Progress | None]:
    """A bar while bytes move, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say_left(left: Sequence[Left]) -> int:
    """A line for each fragment that was left; returns the exit code that follows."""
    for item in left:
        complain(f"{item.name}: {item.why}")
    if any(item.damaged for item in left):
        return DAMAGED
    return PARTLY if left else 0


def say(line: str, *, to_stderr: bool) -> None:
    """A result; on stderr where stdout carries a bundle."""
    if to_stderr:
        complain(line)
    else:
        emit(line)
