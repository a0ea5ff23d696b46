"""Receipts on their way home: from the spool that delivered to the one that sealed (docs/bundle-format.md).

A receipt is accepted only where spool id and manifest digest match an entry that is not delivered yet; it is durable
before the entry moves to *delivered*. Accepting twice is accepting once.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .bundle_index import RECEIPTS_NAME, BundleError, Index, Kind, Member, encode_json
from .bundle_pack import Left, Packed, write_index
from .entry import Entry, Target
from .errors import LostRaceError, SpoolError
from .queue import Place, Spool
from .receipts import append_receipt
from .states import State

PROVABLE = frozenset({State.TRANSIT, State.INCOMING, State.DEFERRED, State.HELD, State.QUARANTINED, State.UNVERIFIED})
"""States in which a receipt from elsewhere makes a fragment delivered."""

_MAX_LINE_BYTES = 1 << 20


@dataclass
class AcceptedReceipts:
    """What became of the receipts of a bundle."""

    delivered: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    """Delivered already."""
    foreign: int = 0
    """Receipts of other spools."""
    left: list[Left] = field(default_factory=list)


def carried_here(entry: Entry, spool: Spool) -> str | None:
    """The id of the spool that sealed a fragment which came by a bundle."""
    note = entry.extra.get("bundle")
    origin = note.get("spool_id") if isinstance(note, dict) else None
    return origin if isinstance(origin, str) and origin != spool.spool_id else None


def pack_receipts(spool: Spool, entries: Iterable[Entry], target: Path) -> Packed:
    """Write the receipts of delivered fragments into a bundle. Raises as `bundle_pack.write_index` does."""
    lines = sorted(_line(entry, spool) for entry in entries if entry.receipt is not None)
    content = b"".join(line for _, line in lines)
    member = Member(RECEIPTS_NAME, len(content), hashlib.sha256(content).hexdigest())
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / RECEIPTS_NAME).write_bytes(content)
        return write_index(Path(scratch), Index(Kind.RECEIPTS, spool.spool_id, (), (member,)), target)


def _line(entry: Entry, spool: Spool) -> tuple[str, bytes]:
    body = {
        "spool_id": carried_here(entry, spool) or spool.spool_id,
        "entry": entry.name,
        "manifest_sha256": entry.manifest_sha256,
        "receipt": entry.receipt,
    }
    return entry.name, encode_json(body)


def accept_receipts(spool: Spool, staging: Path, index: Index, digest: str, *, now_s: float) -> AcceptedReceipts:
    """Take over the receipts of a verified bundle. Raises BundleError for lines that are no receipts, before any is."""
    path = staging / RECEIPTS_NAME
    for _ in _lines(path):
        pass
    result = AcceptedReceipts()
    places = spool.scan()
    for line in _lines(path):
        if line["spool_id"] != spool.spool_id:
            result.foreign += 1
            continue
        name = line["entry"]
        why = _accept(spool, places.get(name), line, {"spool_id": index.spool_id, "bundle": digest}, now_s, result)
        if why is not None:
            result.left.append(Left(name, why))
    return result


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        while raw := stream.readline(_MAX_LINE_BYTES + 1):
            yield _parse(raw)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError("a receipt in it is no JSON") from error
    if (
        not isinstance(line, dict)
        or not all(isinstance(line.get(key), str) for key in ("spool_id", "entry", "manifest_sha256"))
        or not isinstance(line.get("receipt"), dict)
        or not isinstance(line["receipt"].get("target"), dict)
        or line["receipt"].get("manifest_sha256") != line["manifest_sha256"]
    ):
        raise BundleError("a receipt in it is none")
    return line


def _target(receipt: dict[str, Any]) -> Target | None:
    """Where it was delivered, so that `verify --remote` can ask there too."""
    try:
        return Target.from_json(receipt["target"])
    except KeyError:
        return None


def _accept(
    spool: Spool,
    place: Place | None,
    line: dict[str, Any],
    carried: dict[str, str],
    now_s: float,
    result: AcceptedReceipts,
) -> str | None:
    """None when the receipt was taken over or was here already; else why not."""
    if place is None:
        return "no such entry is in this spool"
    try:
        entry = spool.read(place)
        if entry.manifest_sha256 != line["manifest_sha256"]:
            return "the receipt is for another seal of it"
        if place.state is State.DELIVERED:
            result.known.append(entry.name)
            return None
        if place.state not in PROVABLE:
            return f"it is {place.state} here; it was left so"
        owned = spool.claim(place)
        receipt = append_receipt(spool, {**line["receipt"], "entry": entry.name, "carried": carried}, now_s=now_s)
        known = spool.read(owned)
        delivered = replace(
            known, receipt=receipt, target=_target(receipt) or known.target, reason=None, mend=None,
            not_before=None, backoff_s=0.0,
        )  # fmt: skip
        why = f"its receipt was carried home ({carried['bundle'][:12]})"
        spool.move(owned, State.DELIVERED, delivered, why=why, now_s=now_s)
    except (LostRaceError, FileNotFoundError):
        return "it moved meanwhile; unpack the bundle again"
    except SpoolError as error:
        return str(error)
    result.delivered.append(entry.name)
    return None
