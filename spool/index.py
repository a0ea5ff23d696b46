"""The index: bodies of delivered entries, cached in SQLite on the reader's own disk.

Delivered entries never change, so the index only follows which names are there: one listing of `delivered/` against one
column. It never lies in the shared spool (SQLite's locks don't hold on network file systems), may be deleted at any
time, and whatever goes wrong with it costs only its speed: then the entries themselves are read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlite_utils
from sqlite_utils.db import Table

from .entry import Entry, entry_from_json
from .errors import SpoolError
from .observations import cache_directory
from .queue import Place, Spool

_BATCH = 2000
_DAMAGES = (sqlite3.Error, ValueError, TypeError, KeyError)


class DeliveredIndex:
    """The index of one spool, for one user on one host."""

    def __init__(self, spool: Spool, path: Path | None = None) -> None:
        self._spool = spool
        self._path = path or cache_directory() / f"{spool.spool_id}.sqlite"

    def entries(self, places: Iterable[Place], run_id: str | None = None) -> Iterator[Entry]:
        """The delivered entries at these places (all that there are), by name; only those of a run if it is given.

        An entry that can't be read is left out, as one that moved meanwhile.
        """
        by_name = {place.name: place for place in places}
        try:
            yield from self._cached(by_name, run_id)
        except (*_DAMAGES, OSError):
            self._path.unlink(missing_ok=True)  # damaged, foreign or locked: the next reader builds it anew
            yield from _read(self._spool, by_name.values(), run_id)

    def _cached(self, by_name: dict[str, Place], run_id: str | None) -> list[Entry]:
        """All at once, so that a damage in the middle never yields an entry twice."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite_utils.Database(sqlite3.connect(self._path, timeout=5.0))
        try:
            self._refresh(database, by_name)
            where, values = ("run_id = ?", [run_id]) if run_id is not None else (None, [])
            rows = _table(database).rows_where(where, values, select="name, body", order_by="name")
            return [entry_from_json(str(row["name"]), json.loads(row["body"])) for row in rows]
        finally:
            database.conn.close()

    def _refresh(self, database: sqlite_utils.Database, by_name: dict[str, Place]) -> None:
        table = _table(database)
        if not table.exists():
            table.create({"name": str, "run_id": str, "body": str}, pk="name")
            table.create_index(["run_id"])
        known = {name for (name,) in database.execute("select name from entries")}
        new = [by_name[name] for name in by_name.keys() - known]
        rows = ({"name": e.name, "run_id": e.run_id, "body": json.dumps(e.as_json())} for e in _read(self._spool, new))
        table.upsert_all(rows, pk="name", batch_size=_BATCH)
        gone = list(known - by_name.keys())
        with database.conn:
            database.conn.executemany("delete from entries where name = ?", [(name,) for name in gone])


def _table(database: sqlite_utils.Database) -> Table:
    table = database["entries"]
    assert isinstance(table, Table)
    return table


def _read(spool: Spool, places: Iterable[Place], run_id: str | None = None) -> Iterator[Entry]:
    for place in places:
        try:
            entry = spool.read(place)
        except (FileNotFoundError, SpoolError):
            continue
        if run_id is None or entry.run_id == run_id:
            yield entry
