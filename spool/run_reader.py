"""Read a run without wandb and without a server: `open_run(path)`.

Works on any `offline-run-*` (or `run-*`) directory and on any `.wandb` file, finished, still growing or torn: what is
whole is read, `ending` says how the log ends. Nothing is written, no link is followed out of the run.

    run = open_run("wandb/offline-run-20261121_045001-abcd1234")
    run.config["lr"], run.summary["loss"]
    for row in run.rows():
        print(row.step, row.values.get("loss"))
    frame = run.to_pandas()

Values are what the log holds: true and false, whole numbers, floats, texts, lists, null. wandb writes a float without a
fraction as a whole number (`1.0` stands as `1` in the log). An object is un-nested (`{"a": {"b": 1}}` is `a.b`), but
what wandb made of media, tables and histograms (objects with `_type`) stays one object under its key.

Fails with `UsageError` where there is no log, and with `OSError` or `StorageError` where it can't be read; bytes that
are wrong never raise. Memory is bounded by the largest row, not by the log, except in `to_pandas`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .capture import regular_files
from .errors import SpoolError, UsageError, storage_error
from .layout import log_path
from .log import (
    Artifact,
    ArtifactEntry,
    Ending,
    LogFacts,
    LogReader,
    ManifestFileError,
    Record,
    RecordKind,
    artifacts,
    facts,
    read_manifest_file,
)
from .log.items import item_value, key_path, parse_all, parse_json, split_item
from .log.record import content
from .log.rows import MAX_ROW_BYTES, plain_row, read_step_of
from .log.wire import WireError, fields, integer, messages, require_message, text
from .manifest import read_manifest

if TYPE_CHECKING:
    import pandas

TYPE_KEY = "_type"
STEP_KEY = "_step"

_STATS_ITEM = 3
_TIMESTAMP = 2


class HistoryRow(NamedTuple):
    """One committed step. `values` has `_timestamp` and `_runtime` too, and not `_step`."""

    step: int
    values: dict[str, object]


class SystemSample(NamedTuple):
    """System metrics at one time: CPU, memory, GPU, disk, network, as wandb names them."""

    time_s: float
    values: dict[str, object]


class ConsoleLine(NamedTuple):
    """What the program printed, piece by piece; `text` has the line's end where there was one."""

    time_s: float
    stream: str
    """`stdout` or `stderr`."""
    text: str


@dataclass(frozen=True)
class RunFile:
    """A file that was saved or logged with the run, as it lies in its directory now."""

    name: str
    """Below `files/`, with `/`."""
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class ArtifactFile:
    """One file of an artifact, and where its bytes lie now."""

    name: str
    """Its path in the artifact."""
    size_bytes: int
    md5: str
    """Base64 of the MD5, as wandb writes it; for a reference its ETag or the like."""
    path: Path | None
    """None for a reference, and where the bytes are gone."""
    reference: str = ""
    """The URL of a file that was logged by reference: nothing of it is here."""


def open_run(path: Path | str) -> RunReader:
    """A reader for a run directory or a `.wandb` file. Raises UsageError when there is no log."""
    given = Path(os.path.abspath(os.path.expanduser(path)))
    if given.is_dir():
        log = log_path(given)
        if log is None:
            raise UsageError("no .wandb log in this directory", path=given, hint="name an offline-run-… directory")
        return RunReader(log)
    if not given.is_file():
        raise UsageError("no such run directory or .wandb file", path=given)
    return RunReader(given)


class RunReader:
    """One fragment of a run, read from its log. Every method reads the log anew; nothing is kept but `facts`."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __repr__(self) -> str:
        return f"RunReader({str(self.log)!r})"

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.log.parent

    # -- all at once -------------------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> LogFacts:
        """Everything that the log says about the run besides its rows, in one pass."""
        return facts(self.log, salvage=True)

    @property
    def run_id(self) -> str:
        return self.facts.run_id

    @property
    def project(self) -> str:
        return self.facts.project

    @property
    def entity(self) -> str:
        return self.facts.entity

    @property
    def name(self) -> str:
        return self.facts.display_name

    @property
    def config(self) -> dict[str, object]:
        """The last config, nested, without wandb's own part."""
        return {key: value for key, value in self.facts.config.items() if key != "_wandb"}

    @property
    def summary(self) -> dict[str, object]:
        """The last summary, nested, without wandb's own part."""
        return {key: value for key, value in self.facts.summary.items() if key != "_wandb"}

    @property
    def exit_code(self) -> int | None:
        """None for a run that did not come to its end."""
        return self.facts.exit_code

    @property
    def ending(self) -> Ending:
        """How the log ends: finished, clean, torn, damaged, void."""
        return self.facts.ending

    # -- in order ----------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[HistoryRow]:
        """The history, in the order of the log: `facts.rows` of them. A row whose values can't be read has none."""
        keys = Keys()
        for record in self.records():
            if record.kind == RecordKind.HISTORY:
                raw = raw_row(record)
                if raw is not None:
                    step, texts = raw
                    values = keys.values(dict(zip(texts, parse_all(texts.values()), strict=True)))
                    values.pop(STEP_KEY, None)
                    yield HistoryRow(step, values)

    def system_metrics(self) -> Iterator[SystemSample]:
        for record in self.records():
            if record.kind == RecordKind.STATS:
                sample = read_sample(record)
                if sample is not None:
                    yield sample

    def console(self) -> Iterator[ConsoleLine]:
        for record in self.records():
            if record.kind == RecordKind.OUTPUT_RAW:
                line = read_console_line(record)
                if line is not None:
                    yield line

    def records(self) -> Iterator[Record]:
        """The records of the log as they stand, for what this reader has no words for."""
        with LogReader(self.log, salvage=True) as reader:
            yield from reader

    def files(self) -> Iterator[RunFile]:
        """Saved files, media and tables, as they lie in the run directory; links are left out."""
        root = self.directory / "files"
        for path in regular_files(root):
            try:
                size_bytes = path.stat().st_size
            except OSError as error:
                raise storage_error("read", path, error) from error
            yield RunFile(path.relative_to(root).as_posix(), path, size_bytes)

    def artifacts(self) -> Iterator[Artifact]:
        """The artifacts that were logged; each knows its entries and where their bytes lay."""
        return artifacts(self.log, salvage=True)

    def artifact_files(self, artifact: Artifact) -> Iterator[ArtifactFile]:
        """The files of an artifact; in a sealed run those that were sealed with it, wherever the spool lies now."""
        for entry in self._artifact_entries(artifact):
            path = None if entry.ref else self._found(entry.local_path)
            yield ArtifactFile(entry.path, entry.size_bytes, entry.digest, path, entry.ref)

    def _artifact_entries(self, artifact: Artifact) -> Iterator[ArtifactEntry]:
        yield from artifact.entries()
        if artifact.manifest_file_path:  # more than a hundred thousand files
            path = self._found(artifact.manifest_file_path)
            try:
                if path is not None:
                    yield from read_manifest_file(path)
            except ManifestFileError:
                return

    def _found(self, named: str) -> Path | None:
        """Where a file lies now which the log names by its absolute path."""
        if not named:
            return None
        path = self._sealed_places.get(named) or Path(self.directory, named)
        return path if path.is_file() and not path.is_symlink() else None

    @cached_property
    def _sealed_places(self) -> dict[str, Path]:
        try:
            manifest, _ = read_manifest(self.directory)
        except (OSError, SpoolError):
            return {}  # not sealed, or not in a spool: then the log's own paths are all there is
        launch = self.directory.parent.parent
        return {item.source: launch / item.path for item in manifest.files if item.source}

    def to_pandas(self, *, system: bool = False) -> pandas.DataFrame:
        """The history (or the system metrics) as a DataFrame, one column a key; needs pandas, and memory for all of it.

        The history's first column is `_step`; absent values are missing. Raises UsageError without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_pandas needs pandas", hint="`pip install pandas`") from error
        if system:
            return pandas.DataFrame(
                [{"_timestamp": sample.time_s, **sample.values} for sample in self.system_metrics()]
            )
        frame = pandas.DataFrame([{STEP_KEY: row.step, **row.values} for row in self.rows()])
        return frame if STEP_KEY in frame else pandas.DataFrame({STEP_KEY: []})


# -- rows ------------------------------------------------------------------------------------------------------------

RawRow = tuple[int, dict[bytes, bytes]]
"""Step; the JSON text of each value by its encoded key."""


def raw_row(record: Record) -> RawRow | None:
    """A row with its values still as JSON texts; None for a record that is none. `_step` may stand among them too."""
    return plain_row(record) or _careful_row(record)


def _careful_row(record: Record) -> RawRow | None:
    """The same for every other shape in which an item may stand."""
    step = read_step_of(record)
    if step is None:
        return None
    try:
        return step, _careful_items(record) if len(record.payload) <= MAX_ROW_BYTES else {}
    except WireError:
        return step, {}


def _careful_items(record: Record) -> dict[bytes, bytes]:
    import json

    buf = record.payload
    found: dict[bytes, bytes] = {}
    places = messages(buf, *content(record), 1)
    for start, end in zip(places[::2], places[1::2], strict=True):
        path, json_text, typed = split_item(buf, start, end, typed=True)
        if path != (STEP_KEY,):
            value = json_text if json_text is not None else json.dumps(item_value(buf, None, typed)).encode()
            found[_encoded(path)] = value
    return found


def _encoded(path: tuple[str, ...]) -> bytes:
    from .log.wire import length_field

    return b"".join(length_field(2, part.encode("utf-8", "replace")) for part in path)


class Keys:
    """Encoded keys of a log as names, and which of them make up one object."""

    def __init__(self) -> None:
        self._paths: dict[bytes, tuple[str, ...]] = {}
        self._names: dict[bytes, str] = {}

    def path(self, key: bytes) -> tuple[str, ...]:
        path = self._paths.get(key)
        if path is None:
            path = self._paths[key] = key_path(key)
        return path

    def name(self, key: bytes) -> str:
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = ".".join(self.path(key))
        return name

    def values(self, decoded: Mapping[bytes, object]) -> dict[str, object]:
        """One row's values by name, with the objects that have a `_type` put together again."""
        roots = [path[:-1] for path in map(self.path, decoded) if len(path) > 1 and path[-1] == TYPE_KEY]
        values: dict[str, object] = {}
        for key, value in decoded.items():
            path = self.path(key)
            root = (
                next((root for root in roots if path[: len(root)] == root), None) if roots and len(path) > 1 else None
            )
            if root is not None:
                node = values.setdefault(".".join(root), {})
                assert isinstance(node, dict)
                node[".".join(path[len(root) :])] = value
            elif isinstance(value, dict) and TYPE_KEY not in value:
                values.update(unnested(self.name(key), value))
            else:
                values[self.name(key)] = value
        return values


def unnested(name: str, value: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    waiting: list[tuple[str, object]] = [(name, value)]
    while waiting:
        name, inner = waiting.pop()
        if isinstance(inner, Mapping) and inner and TYPE_KEY not in inner:
            waiting.extend((f"{name}.{child}", inner[child]) for child in inner)
        else:
            yield name, inner


# -- system metrics and console --------------------------------------------------------------------------------------


def read_sample(record: Record) -> SystemSample | None:
    """The system metrics in a record; None when it is none."""
    buf = record.payload
    try:
        start, end = content(record)
        places = messages(buf, start, end, _STATS_ITEM)
        values = {}
        for item_start, item_end in zip(places[::2], places[1::2], strict=True):
            path, json_text, _ = split_item(buf, item_start, item_end)
            values[".".join(path)] = parse_json(json_text or b"null")
        return SystemSample(time_of(record, start, end), values)
    except WireError:
        return None


def read_console_line(record: Record) -> ConsoleLine | None:
    """The output in a record; None when it is none."""
    buf = record.payload
    stream, line = "stderr", ""
    try:
        start, end = content(record)
        for field in fields(buf, start, end):
            if field.number == 1:
                stream = "stdout" if integer(buf, field) == 1 else "stderr"
            elif field.number == 3:
                line = text(buf, field)
        return ConsoleLine(time_of(record, start, end), stream, line)
    except WireError:
        return None


def time_of(record: Record, start: int, end: int) -> float:
    """Seconds since the epoch; NaN where the record has no time."""
    buf = record.payload
    time_s = math.nan
    for field in fields(buf, start, end):
        if field.number == _TIMESTAMP:
            require_message(field)
            parts = {1: 0, 2: 0}
            for part in fields(buf, field.start, field.end):
                if part.number in parts:
                    parts[part.number] = integer(buf, part)
            time_s = parts[1] + parts[2] / 1e9
    return time_s


__all__ = [
    "ArtifactFile",
    "ConsoleLine",
    "HistoryRow",
    "RunFile",
    "RunReader",
    "SystemSample",
    "open_run",
]
