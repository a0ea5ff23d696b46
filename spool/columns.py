"""Rows of JSON texts as typed columns, a bounded batch at a time; written as JSON lines or as Parquet.

Types (docs/howto/export.md): a column whose values are all true or false is boolean, all whole numbers int64, all
numbers float64, all texts string; anything else, lists, objects and mixtures, is the JSON text of each value. A whole
number that a float64 can't hold exactly keeps its column from becoming float64: it is JSON then. Absent and null are
null. Parquet needs one type a column for the whole file, so batches wait in a scratch file beside it until the last row
is known; memory holds one batch.

Fails with `OSError`, and `UsageError` where pyarrow is missing.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from .errors import UsageError
from .log.items import join_texts, parse_joined
from .run_reader import STEP_KEY, TYPE_KEY, Keys, unnested

BATCH_ROWS = 16_384
BATCH_BYTES = 32 << 20

_EXACT = 2**53
_INT64 = 2**63
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode


class ColumnKind(Enum):
    """The type of a column; the value is its name in the file's metadata."""

    NULL = "null"
    BOOLEAN = "boolean"
    INTEGER = "int64"
    WIDE_INTEGER = "int64, some beyond 2**53"
    NUMBER = "float64"
    TEXT = "string"
    JSON = "json"


_K = ColumnKind


def join(a: ColumnKind, b: ColumnKind) -> ColumnKind:
    """The kind that holds the values of both."""
    if a is b or b is _K.NULL:
        return a
    if a is _K.NULL:
        return b
    both = {a, b}
    if both == {_K.INTEGER, _K.WIDE_INTEGER}:
        return _K.WIDE_INTEGER
    if both == {_K.INTEGER, _K.NUMBER}:
        return _K.NUMBER
    return _K.JSON


def kind_of(values: Sequence[object]) -> ColumnKind:
    """The kind of a column with these values."""
    types = set(map(type, values)) - {type(None)}
    if not types:
        return _K.NULL
    if types == {bool}:
        return _K.BOOLEAN
    if types == {str}:
        return _K.TEXT
    if types == {float}:
        return _K.NUMBER
    if types <= {int, float}:
        whole = [value for value in values if type(value) is int]
        largest = max(max(whole), -min(whole))
        if largest <= _EXACT:
            return _K.INTEGER if types == {int} else _K.NUMBER
        if types == {int} and largest < _INT64:
            return _K.WIDE_INTEGER
    return _K.JSON


def plain(value: object) -> object:
    """A value that every reader of JSON takes: NaN and the infinities as texts."""
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def encode(value: object) -> str:
    """JSON on one line; never fails for what a log can hold."""
    try:
        return _encode(value)
    except ValueError:
        return json.dumps(plain(value), ensure_ascii=False)


class Column:
    """The values of one key in a batch, and the rows in which they stand."""

    __slots__ = ("rows", "values")

    def __init__(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        self.rows = rows
        self.values = values

    def dense(self, count: int) -> Sequence[Any]:
        if len(self.rows) == count:
            return self.values
        full: list[Any] = [None] * count
        for row, value in zip(self.rows, self.values, strict=True):
            full[row] = value
        return full


class Rows:
    """Rows on their way to a file: leading values as they are, the others as JSON texts by their encoded key."""

    def __init__(self) -> None:
        self._leading: list[tuple[Any, ...]] = []
        self._rows: list[Mapping[bytes, bytes]] = []
        self._size_bytes = 0

    def add(self, leading: tuple[Any, ...], texts: Mapping[bytes, bytes], size_bytes: int) -> None:
        self._leading.append(leading)
        self._rows.append(texts)
        self._size_bytes += size_bytes

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        return len(self._rows) >= BATCH_ROWS or self._size_bytes >= BATCH_BYTES

    def batch(self) -> Batch:
        """The same as columns."""
        texts = [(key, rows, join_texts(values)) for key, rows, values in self._columns()]
        return Batch(list(zip(*self._leading, strict=True)), texts, len(self))

    def _columns(self) -> Iterator[tuple[bytes, Sequence[int], list[bytes]]]:
        often = Counter(chain.from_iterable(self._rows))
        every_row = range(len(self))
        sparse: dict[bytes, tuple[list[int], list[bytes]]] = {}
        for key, times in often.items():
            if times == len(self):  # nearly every column: one call for all its rows
                yield key, every_row, list(map(itemgetter(key), self._rows))
            else:
                sparse[key] = ([], [])
        if sparse:
            for row, texts in enumerate(self._rows):
                for key, text in texts.items():
                    if key in sparse:
                        rows, values = sparse[key]
                        rows.append(row)
                        values.append(text)
        yield from ((key, rows, values) for key, (rows, values) in sparse.items())


@dataclass(frozen=True)
class Batch:
    """Some rows as columns, still as texts: small enough to be handed to another process."""

    leading: Sequence[Sequence[Any]]
    """The leading columns."""
    texts: Sequence[tuple[bytes, Sequence[int], bytes | Collection[bytes]]]
    """Of each other column the encoded key, the rows that have it, and what `join_texts` made of the values there."""
    count: int

    def columns(self, keys: Keys) -> dict[str, Column]:
        """The decoded columns by name, sorted; objects that have a `_type` are one value."""
        decoded = {key: Column(rows, parse_joined(texts, len(rows))) for key, rows, texts in self.texts}
        cells: dict[str, dict[int, object]] = {}
        _gather_objects(keys, decoded, cells)
        named: dict[str, Column] = {}
        for key, column in decoded.items():
            name = keys.name(key)
            if name == STEP_KEY:  # wandb writes it beside the values too; it leads the row
                continue
            if dict in map(type, column.values):
                _spread(name, column, cells)
            elif name in named or name in cells:
                cells.setdefault(name, {}).update(zip(column.rows, column.values, strict=True))
            else:
                named[name] = column
        for name, by_row in cells.items():
            if name in named:
                by_row = {**dict(zip(named[name].rows, named[name].values, strict=True)), **by_row}
            rows = sorted(by_row)
            named[name] = Column(rows, [by_row[row] for row in rows])
        return {name: named[name] for name in sorted(named) if named[name].rows}


def _gather_objects(keys: Keys, decoded: dict[bytes, Column], cells: dict[str, dict[int, object]]) -> None:
    """Take the parts of media, tables and histograms out of `decoded` and put them together, row by row."""
    roots = {path[:-1] for path in map(keys.path, decoded) if len(path) > 1 and path[-1] == TYPE_KEY}
    for root in sorted(roots, key=len):
        below = {key: path for key in decoded if (path := keys.path(key))[: len(root)] == root != path}
        marked: set[int] = set()
        for key, path in below.items():
            if path == (*root, TYPE_KEY):
                marked.update(decoded[key].rows)
        objects: dict[int, dict[str, object]] = {}
        for key, path in below.items():
            column, name = decoded[key], ".".join(path[len(root) :])
            for row, value in zip(column.rows, column.values, strict=True):
                if row in marked:
                    objects.setdefault(row, {})[name] = value
            rest = [pair for pair in zip(column.rows, column.values, strict=True) if pair[0] not in marked]
            decoded[key] = Column([row for row, _ in rest], [value for _, value in rest])
        cells.setdefault(".".join(root), {}).update(objects)


def _spread(name: str, column: Column, cells: dict[str, dict[int, object]]) -> None:
    """Objects as members of their own, unless they have a `_type`."""
    for row, value in zip(column.rows, column.values, strict=True):
        members = unnested(name, value) if isinstance(value, dict) else ((name, value),)
        for member, each in members:
            cells.setdefault(member, {})[row] = each


# -- files -----------------------------------------------------------------------------------------------------------


class JsonLines:
    """One object a line. NaN and the infinities are texts; an absent value has no key."""

    suffix = ".jsonl"

    def __init__(self, path: Path, leading: Mapping[str, ColumnKind]) -> None:
        self._names = tuple(leading)
        self._stream = path.open("w", encoding="utf-8", errors="replace")

    def write(self, leading: Sequence[Sequence[Any]], columns: Mapping[str, Column], count: int) -> None:
        rows: list[dict[str, Any]] = [
            dict(zip(self._names, values, strict=True)) for values in zip(*leading, strict=True)
        ]
        for name, column in columns.items():
            for row, value in zip(column.rows, column.values, strict=True):
                rows[row][name] = value
        self._stream.writelines(encode(row) + "\n" for row in rows)

    def close(self) -> None:
        self._stream.close()


class Parquet:
    """A Parquet file, compressed with zstd, a row group a batch."""

    suffix = ".parquet"

    def __init__(self, path: Path, leading: Mapping[str, ColumnKind]) -> None:
        self._arrow = require_pyarrow()
        self._path = path
        self._scratch = path.with_name(f".{path.name}.batches")
        self._sink = self._arrow.OSFile(str(self._scratch), "wb")
        self._leading = dict(leading)
        self._kinds: dict[str, ColumnKind] = {}
        self._batches: list[tuple[int, dict[str, ColumnKind]]] = []

    def write(self, leading: Sequence[Sequence[Any]], columns: Mapping[str, Column], count: int) -> None:
        arrow = self._arrow
        arrays = [self._array(values, kind) for values, kind in zip(leading, self._leading.values(), strict=True)]
        kinds: dict[str, ColumnKind] = {}
        for name, column in columns.items():
            if name in self._leading:
                continue
            kinds[name] = kind_of(column.values)
            self._kinds[name] = join(self._kinds.get(name, _K.NULL), kinds[name])
            arrays.append(self._array(column.dense(count), kinds[name]))
        names = [*self._leading, *kinds]
        batch = arrow.record_batch(arrays, names=names)
        self._batches.append((self._sink.tell(), kinds))
        with arrow.ipc.new_stream(self._sink, batch.schema) as stream:
            stream.write_batch(batch)

    def close(self) -> None:
        from pyarrow import parquet

        self._sink.close()
        try:
            with parquet.ParquetWriter(str(self._path), self._schema(), compression="zstd") as writer:
                for batch in self._read():
                    writer.write_batch(batch)
        finally:
            os.unlink(self._scratch)

    def _schema(self) -> Any:
        kinds = {**self._leading, **dict(sorted(self._kinds.items()))}
        return self._arrow.schema(
            [
                self._arrow.field(name, self._type(kind), metadata={"wandb_spool.kind": kind.value})
                for name, kind in kinds.items()
            ]
        )

    def _read(self) -> Iterator[Any]:
        schema = self._schema()
        with self._arrow.memory_map(str(self._scratch)) as source:
            for offset, kinds in self._batches:
                source.seek(offset)
                with self._arrow.ipc.open_stream(source) as stream:
                    batch = stream.read_next_batch()
                arrays = [batch.column(index) for index in range(len(self._leading))]
                for name in sorted(self._kinds):
                    arrays.append(self._cast(batch, name, kinds.get(name, _K.NULL)))
                yield self._arrow.record_batch(arrays, schema=schema)

    def _cast(self, batch: Any, name: str, kind: ColumnKind) -> Any:
        wanted = self._kinds[name]
        if kind is _K.NULL:
            return self._arrow.nulls(batch.num_rows, self._type(wanted))
        array = batch.column(batch.schema.get_field_index(name))
        if wanted is _K.JSON and kind is not _K.JSON:
            return self._array(array.to_pylist(), _K.JSON)
        return array.cast(self._type(wanted))

    def _array(self, values: Sequence[Any], kind: ColumnKind) -> Any:
        if kind is _K.JSON:
            values = [None if value is None else encode(value) for value in values]
        try:
            return self._arrow.array(values, self._type(kind))
        except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, a text can't
            values = [None if value is None else value.encode("utf-8", "replace").decode() for value in values]
            return self._arrow.array(values, self._type(kind))

    def _type(self, kind: ColumnKind) -> Any:
        arrow = self._arrow
        if kind is _K.BOOLEAN:
            return arrow.bool_()
        if kind in (_K.INTEGER, _K.WIDE_INTEGER):
            return arrow.int64()
        if kind is _K.NUMBER:
            return arrow.float64()
        return arrow.null() if kind is _K.NULL else arrow.string()


def require_pyarrow() -> Any:
    """pyarrow. Raises UsageError with the command that brings it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed here",
            hint="`pip install 'wandb-spool[export]'`, or --format jsonl, which needs nothing",
        ) from error
    return pyarrow
