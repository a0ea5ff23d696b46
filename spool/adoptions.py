"""What was adopted, by whom and from where: so that adopting again adopts nothing twice (docs/format.md).

One file a host, appended, like receipts. A line is written before a run directory is brought in and again when it is
in; a crash in between leaves the first, and then only the entry itself tells whether it came in. Torn lines are
skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from . import clock, durable
from .capture import open_regular
from .identity import host_name
from .layout import FORMAT
from .queue import Spool


@dataclass(frozen=True)
class Adoption:
    """One run directory that was brought in, or was about to be."""

    identity: str
    source: str
    entry: str
    log_bytes: int
    done: bool


def read_adoptions(spool: Spool) -> dict[str, Adoption]:
    """The newest adoption of each identity. One that is done outranks one that was only begun."""
    found: dict[str, Adoption] = {}
    for body in _lines(spool):
        adoption = _adoption(body)
        if adoption is None:
            continue
        before = found.get(adoption.identity)
        if before is None or adoption.done or not before.done or before.entry != adoption.entry:
            found[adoption.identity] = adoption
    return found


def unfinished(spool: Spool) -> list[Adoption]:
    """Adoptions that were begun and never came to their end, each entry once."""
    begun: dict[str, Adoption] = {}
    done: set[str] = set()
    for adoption in filter(None, map(_adoption, _lines(spool))):
        begun.setdefault(adoption.entry, adoption)
        if adoption.done:
            done.add(adoption.entry)
    return [adoption for name, adoption in begun.items() if name not in done]


def note(spool: Spool, adoptions: Iterable[Adoption], *, now_s: float | None = None) -> None:
    """Make lines durable. Raises StorageError."""
    at = clock.iso(time.time() if now_s is None else now_s)
    bodies = [{"format": FORMAT, "at": at, **vars(adoption)} for adoption in adoptions]
    if bodies:
        durable.make_directory(spool.paths.adopted)
        text = "\n".join(json.dumps(body, ensure_ascii=False, separators=(",", ":")) for body in bodies)
        path = spool.paths.adopted / f"{host_name()}.jsonl"
        durable.append_line(path, text.encode("utf-8", "surrogateescape"), mode=spool.file_mode)


def _lines(spool: Spool) -> Iterator[dict[str, Any]]:
    if not spool.paths.adopted.is_dir():
        return
    for path in sorted(spool.paths.adopted.glob("[!.]*.jsonl")):
        try:
            fd = open_regular(path)
        except ValueError:
            continue  # a member of a group can put anything here
        with open(fd, "rb") as stream:
            for line in stream:
                try:
                    body = json.loads(line.decode("utf-8", "surrogateescape"))
                except ValueError:
                    continue
                if isinstance(body, dict):
                    yield body


def _adoption(body: dict[str, Any]) -> Adoption | None:
    try:
        return Adoption(
            identity=str(body["identity"]),
            source=str(body["source"]),
            entry=str(body["entry"]),
            log_bytes=int(body["log_bytes"]),
            done=bool(body["done"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
