"""Receipts: what was read back from a server, when, for which target run. Only a receipt makes a fragment *delivered*.

Appended, one JSON line each, to a file of this host (docs/format.md says why a file a host), fsynced before the entry
moves. Reading skips a line that a crash tore.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from . import clock, durable
from .capture import open_regular
from .identity import host_name
from .layout import FORMAT
from .queue import Spool


def append_receipt(spool: Spool, receipt: dict[str, Any], *, now_s: float | None = None) -> dict[str, Any]:
    """Make a receipt durable; returns it with its time and format."""
    now = time.time() if now_s is None else now_s
    body = {"format": FORMAT, "at": clock.iso(now), "spool_id": spool.spool_id, **receipt}
    directory = spool.paths.receipts / clock.month(now)
    durable.make_directory(directory)
    line = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    durable.append_line(directory / f"{host_name()}.jsonl", line, mode=spool.file_mode)
    return body


def read_receipts(spool: Spool) -> Iterator[dict[str, Any]]:
    """Every receipt of the spool, month by month."""
    if not spool.paths.receipts.is_dir():
        return
    for path in sorted(spool.paths.receipts.glob("*/*.jsonl")):
        try:
            fd = open_regular(path)
        except ValueError:
            continue  # a member of a group can put anything here
        with open(fd, "rb") as stream:
            for line in stream:
                try:
                    body = json.loads(line)
                except ValueError:
                    continue
                if isinstance(body, dict):
                    yield body
