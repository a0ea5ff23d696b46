"""Marks of pushes that write a run's lines anew, so that one that is cut can't silently undo a delivered fragment.

On a server that does not count the lines that it holds, a push has to carry all rows of its run; while it is under way,
and after it was cut, rows that were read back before may be gone. The mark is durable before such a push begins and
goes when a read-back has found those rows again. As long as it stands, no delivered fragment of the run is pruned, and
a pass sees to it that somebody sends the run again. Fails with `StorageError`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import clock, durable
from .entry import Target
from .layout import FORMAT, target_key
from .queue import Spool


@dataclass(frozen=True)
class Mark:
    """One push that was begun and not yet found whole."""

    target: Target
    entry: str
    """Whose push it was."""
    delivered: tuple[str, ...]
    """Entries of the run that had a receipt."""
    repair: bool = False
    """Whether that entry was made to mend the run."""


def _path(spool: Spool, target: Target) -> Path:
    key = target_key(target.base_url, target.entity, target.project, target.run_id)
    return spool.paths.repairs / f"{key}.json"


def mark(
    spool: Spool,
    target: Target,
    entry: str,
    delivered: Sequence[str],
    *,
    repair: bool = False,
    now_s: float | None = None,
) -> None:
    """Say durably that the run's lines are about to be written anew."""
    path = _path(spool, target)
    durable.make_directory(path.parent)
    body = {
        "format": FORMAT,
        "target": target.as_json(),
        "entry": entry,
        "delivered": list(delivered),
        "repair": repair,
        "at": clock.iso(time.time() if now_s is None else now_s),
    }
    durable.write_json(path, body, mode=spool.file_mode)


def is_marked(spool: Spool, target: Target) -> bool:
    return _path(spool, target).exists()


def clear(spool: Spool, target: Target) -> None:
    """The run was found whole."""
    path = _path(spool, target)
    if path.exists():
        durable.remove(path)


def marks(spool: Spool) -> Iterator[Mark]:
    """Every mark; a file that is none is left alone."""
    for path in sorted(spool.paths.repairs.glob("[!.]*.json")):
        try:
            body = durable.read_json(path)
            names = tuple(str(name) for name in body["delivered"])
            yield Mark(Target.from_json(body["target"]), str(body["entry"]), names, bool(body.get("repair")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
