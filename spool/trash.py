"""The trash: fragments that a person discarded. Their bytes stay for 14 days and are freed by the first `prune` after.

The program never deletes by itself what no server has: a pass of the syncer does not come here. Order: what the balance
needs is written into the entry → the run directory goes, as in `pruning`. A crash in between leaves an entry that is no
longer restorable and bytes that the next `prune` frees. The entry stays, so a discarded run counts for ever. Bytes that
another entry (a replay, or the fragment of a discarded replay) needs stay with it. Fails with `StorageError`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import clock
from .entry import Entry
from .errors import LostRaceError, SpoolError
from .manifest import read_manifest
from .pruning import is_pruned, size_bytes, take_away
from .queue import Place, Spool
from .states import State

RESTORABLE_S = 14 * 86400.0
_FREED = "freed"


@dataclass(frozen=True)
class Discarded:
    """A discarded fragment with bytes here; `kept` says why they stay, None that they may go."""

    place: Place
    entry: Entry
    size_bytes: int
    kept: str | None


def freed(entry: Entry) -> dict[str, Any] | None:
    """What was noted when the bytes of a discarded entry were freed; None while they are here."""
    note = entry.extra.get(_FREED)
    return note if isinstance(note, dict) else None


def gone_on_purpose(spool: Spool, entry: Entry) -> str | None:
    """Why the bytes of an entry are not here any more, where `prune` took them."""
    if entry.run_directory(spool.root).exists():
        return None
    if freed(entry):
        return "discarded, and its bytes were freed"
    return "pruned: its receipt proves it elsewhere" if is_pruned(spool, entry) else None


def trash(spool: Spool, *, now_s: float | None = None) -> list[Discarded]:
    """Every discarded fragment with bytes here, the oldest name first."""
    now = time.time() if now_s is None else now_s
    discarded = dict(_discarded(spool))
    if not discarded:
        return []
    needed = _paths_of_others(spool)
    young = {entry.path for entry in discarded.values() if _restorable(entry, now)}
    found = []
    for place in sorted(discarded):
        entry = discarded[place]
        directory = entry.run_directory(spool.root)
        if directory.is_dir():
            kept = (
                "another entry needs it"
                if entry.path in needed
                else "it was discarded less than 14 days ago"
                if entry.path in young
                else None
            )
            found.append(Discarded(place, entry, size_bytes(directory), kept))
    return found


def empty(spool: Spool, chosen: Iterable[Discarded], *, now_s: float | None = None) -> int:
    """Free what may go; returns the bytes. One that was restored meanwhile is left alone."""
    now = time.time() if now_s is None else now_s
    total = 0
    for item in chosen:
        if item.kept is None and _note(spool, item, now):
            total += take_away(spool, item.entry)
    return total


def _discarded(spool: Spool) -> Iterator[tuple[Place, Entry]]:
    for place in spool.places(State.DISCARDED):
        try:
            yield place, spool.read(place)
        except (FileNotFoundError, SpoolError):
            continue  # what can't be read stays


def _paths_of_others(spool: Spool) -> set[str]:
    """Run directories of entries that are not discarded: by their names, so that a damaged entry keeps its bytes."""
    found = set()
    for place in spool.scan(frozenset(State) - {State.DISCARDED}).values():
        launch, _, fragment = place.name.partition(".")
        found.add(f"runs/{launch[:6]}/{launch}/wandb/{fragment}")
        if ".r" in fragment:
            found.add(f"runs/{launch[:6]}/{launch}/wandb/{fragment.rpartition('.r')[0]}")
    return found


def _restorable(entry: Entry, now_s: float) -> bool:
    """Whether its 14 days have not passed; an entry that doesn't say when it was discarded is never freed."""
    if freed(entry):
        return False
    at = next((event.get("at") for event in reversed(entry.history) if event.get("to") == State.DISCARDED.value), None)
    at_s = clock.seconds(at)
    return at_s is None or now_s - at_s < RESTORABLE_S


def _note(spool: Spool, item: Discarded, now_s: float) -> bool:
    """Write into the entry what the balance needs of its manifest; False when somebody took it meanwhile."""
    try:
        owned = spool.claim(item.place)
    except LostRaceError:
        return False
    entry = spool.read(owned)
    if freed(entry) is None:
        note = {"at": clock.iso(now_s), "size_bytes": item.size_bytes, **_counts(spool, entry)}
        spool.rewrite(owned, replace(entry, extra={**entry.extra, _FREED: note}))
    spool.release(owned, State.DISCARDED)
    return True


def _counts(spool: Spool, entry: Entry) -> dict[str, int | None]:
    try:
        manifest, _ = read_manifest(entry.run_directory(spool.root))
    except (OSError, SpoolError):
        return {"rows_logged": None, "rows_kept": entry.rows, "rows_lost": None}
    return {"rows_logged": manifest.rows_logged, "rows_kept": manifest.rows_kept, "rows_lost": manifest.rows_lost}
