"""Prune: delete the bytes of fragments that a receipt proves to be elsewhere.

Only what was read back row by row (level *rows*) from a server that is not on this machine, and of which no other entry
(a replay, a later fragment that waits) needs the bytes. Order: the receipt is durable in `receipts/` → a tombstone
stands in the launch → the run directory goes. A crash in between leaves a directory whose name no longer is a run's,
which the next prune removes. Staged bytes are shared by the fragments of a launch and go with the last of them. The
entry, its receipt and the launch's record stay. Fails with `StorageError`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import clock, durable
from .entry import Entry
from .errors import SpoolError
from .launches import Launch
from .layout import FORMAT, original_name
from .queue import Place, Spool
from .receipts import append_receipt, read_receipts
from .repairs import marks
from .states import WAITING, State

TOMBSTONES = "pruned"
GOING = ".pruned-"


@dataclass(frozen=True)
class Candidate:
    """A delivered fragment whose bytes are still here; `kept` says why they stay, None that they may go."""

    entry: Entry
    size_bytes: int
    kept: str | None


def candidates(
    spool: Spool, *, older_than_s: float, rehearsal: bool = False, now_s: float | None = None
) -> list[Candidate]:
    """Every delivered fragment with bytes here, oldest first."""
    now = time.time() if now_s is None else now_s
    delivered = sorted(_entries(spool, (State.DELIVERED,)), key=lambda entry: entry.name)
    waiting = list(_entries(spool, WAITING))
    paths = {entry.path for entry in waiting}
    runs = {_run(entry) for entry in waiting}
    undone = {name for mark in marks(spool) for name in mark.delivered}
    found: list[Candidate] = []
    for entry in delivered:
        directory = entry.run_directory(spool.root)
        if entry.path not in {item.entry.path for item in found} and directory.is_dir():
            needed = "an undelivered entry needs it" if entry.path in paths or _run(entry) in runs else None
            if entry.name in undone:
                needed = "a push that was cut may have undone it"
            kept = needed or _unproven(entry, now, older_than_s, rehearsal)
            found.append(Candidate(entry, size_bytes(directory), kept))
    return found


def _entries(spool: Spool, states: Iterable[State]) -> Iterator[Entry]:
    for state in states:
        for place in spool.places(state):
            try:
                yield spool.read(place)
            except FileNotFoundError:
                continue
            except SpoolError:
                yield _unreadable(place)


def _unreadable(place: Place) -> Entry:
    """An entry that can't be read still needs its bytes."""
    launch, _, fragment = original_name(place.name).partition(".")
    return Entry(place.name, launch, fragment, f"runs/{launch[:6]}/{launch}/wandb/{fragment}", "")


def _run(entry: Entry) -> tuple[str | None, ...]:
    """Fragments of one run; an entry that names none is only itself."""
    return (entry.base_url, entry.entity, entry.project, entry.run_id or entry.name)


def _unproven(entry: Entry, now_s: float, older_than_s: float, rehearsal: bool) -> str | None:
    receipt: Mapping[str, Any] = entry.receipt or {}
    at_s = clock.seconds(receipt.get("at"))
    if at_s is None or receipt.get("manifest_sha256") != entry.manifest_sha256:
        return "its receipt is not of these bytes"
    if receipt.get("level") != "rows":
        return f"its receipt proves only {receipt.get('level')}"
    if receipt.get("loopback") is not False and not rehearsal:
        return "it was delivered to a server on this machine, a rehearsal (--rehearsal)"
    if now_s - at_s < older_than_s:
        return "it was delivered too recently"
    return None


def prune(spool: Spool, chosen: Iterable[Candidate], *, now_s: float | None = None) -> int:
    """Delete what may go; returns the bytes that were freed."""
    now = time.time() if now_s is None else now_s
    written = {_mark(receipt) for receipt in read_receipts(spool)}
    freed = 0
    for item in chosen:
        if item.kept is not None or item.entry.receipt is None:
            continue
        if _mark(item.entry.receipt) not in written:
            append_receipt(spool, item.entry.receipt, now_s=now)
        freed += _remove(spool, item, now)
    return freed + sum(_sweep(launch) for launch in spool.paths.runs.glob("*/*"))


def is_pruned(spool: Spool, entry: Entry) -> bool:
    """Whether the bytes of an entry were deleted on purpose, because a receipt proves them elsewhere."""
    return (entry.launch_directory(spool.root) / TOMBSTONES / f"{entry.fragment}.json").is_file()


def _mark(receipt: Mapping[str, Any]) -> tuple[str, str]:
    return str(receipt.get("entry")), str(receipt.get("manifest_sha256"))


def _remove(spool: Spool, item: Candidate, now_s: float) -> int:
    launch = item.entry.launch_directory(spool.root)
    tombstone = launch / TOMBSTONES / f"{item.entry.fragment}.json"
    durable.make_directory(tombstone.parent)
    body = {"format": FORMAT, "entry": item.entry.name, "at": clock.iso(now_s), "receipt": item.entry.receipt}
    durable.write_json(tombstone, body, mode=spool.file_mode)
    return take_away(spool, item.entry)


def take_away(spool: Spool, entry: Entry) -> int:
    """Remove a run directory that nobody needs any more; returns the bytes that were freed."""
    directory = entry.run_directory(spool.root)
    durable.rename(directory, directory.parent / f"{GOING}{directory.name}")
    return _sweep(entry.launch_directory(spool.root), spool)


def _sweep(launch: Path, spool: Spool | None = None) -> int:
    """Remove what goes, and with a launch's last fragment its staged bytes."""
    going = list(launch.glob(f"wandb/{GOING}*"))
    if going and spool is not None and not Launch.at(spool, launch).paths.fragments():
        going += [launch / "data"]
    freed = sum(size_bytes(directory) for directory in going)
    for directory in going:
        shutil.rmtree(directory, ignore_errors=True)
    return freed


def size_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        total += status.st_size
    return total
