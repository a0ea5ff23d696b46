"""Export a run without wandb and without a server: history, system metrics, console, config, summary, files, artifacts.

Several fragments of one run are joined in their order; rows that a restart superseded are left out, or kept and marked
(`fragments=True`). The directory appears when it is whole. Memory is bounded whatever the run holds.

Fails with `UsageError` (the directory is there already, pyarrow is missing) and `StorageError`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from .artifact_copies import ArtifactCopies
from .columns import ColumnKind, JsonLines, Parquet, plain, require_pyarrow
from .durable import TEMPORARY_PREFIX
from .errors import UsageError, storage_error
from .log import FactsCollector, LogFacts, LogReader, Record, RecordKind
from .log.artifacts import read_artifact
from .log.items import split_item
from .log.record import content
from .log.rows import read_step_of
from .log.wire import WireError, length_field, messages
from .run_reader import STEP_KEY, RunReader, raw_row, read_console_line, time_of
from .tables import Table

FRAGMENT_KEY = "_fragment"
SUPERSEDED_KEY = "_superseded"
_TIME_KEY = "_timestamp"
_HISTORY, _STATS, _OUTPUT = int(RecordKind.HISTORY), int(RecordKind.STATS), int(RecordKind.OUTPUT_RAW)
_ARTIFACT = int(RecordKind.ARTIFACT)


class Format(str, Enum):
    """How tables are written."""

    PARQUET = "parquet"
    JSONL = "jsonl"


@dataclass(frozen=True)
class Piece:
    """A fragment of the run that is exported, in the order of the run."""

    name: str
    reader: RunReader


@dataclass(frozen=True)
class Exported:
    """What was written."""

    directory: Path
    rows: int
    rows_superseded: int
    files: int
    artifact_files: int
    missing: tuple[str, ...]
    """A line for each file of an artifact that could not be copied."""


def export_run(
    pieces: Sequence[Piece], directory: Path, kind: Format, *, fragments: bool = False, artifacts: bool = True
) -> Exported:
    """Write a run into a new directory. `artifacts`: their bytes too; `run.json` lists them in any case."""
    if kind is Format.PARQUET:
        require_pyarrow()
    if os.path.lexists(directory):
        raise UsageError("it is there already, nothing was replaced", path=directory, hint="choose another --out")
    scratch = directory.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        scratch.mkdir(parents=True)
        done = _Export(pieces, scratch, kind, fragments, artifacts).run()
        os.rename(scratch, directory)
    except OSError as error:
        raise storage_error("export", directory, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return replace(done, directory=directory)


class _Export:
    def __init__(
        self, pieces: Sequence[Piece], directory: Path, kind: Format, fragments: bool, artifacts: bool
    ) -> None:
        self._pieces = pieces
        self._directory = directory
        self._writer: type[Parquet] | type[JsonLines] = Parquet if kind is Format.PARQUET else JsonLines
        self._fragments = fragments
        self._superseded = 0
        self._copies = ArtifactCopies(directory / "artifacts")
        self._artifacts = artifacts

    def run(self) -> Exported:
        first = {FRAGMENT_KEY: ColumnKind.TEXT} if self._fragments else {}
        marked = {SUPERSEDED_KEY: ColumnKind.BOOLEAN} if self._fragments else {}
        history = self._table("history", {STEP_KEY: ColumnKind.INTEGER, **first, **marked})
        system = self._table("system", {_TIME_KEY: ColumnKind.NUMBER, **first})
        text = ColumnKind.TEXT
        console = self._table("console", {_TIME_KEY: ColumnKind.NUMBER, **first, "stream": text, "text": text})
        with history, system, console:
            found, files = self._read(history, system, console)
            for table in (history, system, console):
                table.close()
        self._write_json("config.json", _merged([item.config for item in found]))
        self._write_json("summary.json", _merged([item.summary for item in found]))
        self._write_json("run.json", self._describe(found, history.rows))
        copies = self._copies
        return Exported(self._directory, history.rows, self._superseded, files, copies.files, tuple(copies.missing))

    def _read(self, history: Table, system: Table, console: Table) -> tuple[list[LogFacts], int]:
        """Every log, once; what it says of the run, and how many files were copied."""
        cuts = superseded_from([first_step(piece.reader) for piece in self._pieces])
        found: list[LogFacts] = []
        files = 0
        for piece, cut_from in zip(self._pieces, cuts, strict=True):
            collector = FactsCollector()
            take = self._taker(piece, cut_from, collector, history, system, console)
            with LogReader(piece.reader.log, salvage=True) as records:
                for record in records:
                    take(record)
                found.append(collector.conclude(records))
            files += self._copy_files(piece)
        return found, files

    def _table(self, name: str, leading: dict[str, ColumnKind]) -> Table:
        return Table(self._writer, self._directory / f"{name}{self._writer.suffix}", leading)

    def _taker(
        self,
        piece: Piece,
        cut_from: int | None,
        collector: FactsCollector,
        history: Table,
        system: Table,
        console: Table,
    ) -> Callable[[Record], None]:
        """What becomes of each record of a fragment: one pass over the log for everything."""
        named = (piece.name,) if self._fragments else ()

        def take_row(record: Record) -> None:
            step, texts = raw_row(record) or (None, {})
            collector.take_row(step)
            if step is None:
                return
            superseded = cut_from is not None and step >= cut_from
            self._superseded += superseded
            if not superseded or self._fragments:
                leading = (step, *named, superseded) if self._fragments else (step,)
                history.add(leading, texts, len(record.payload))

        def take(record: Record) -> None:
            kind = record.kind
            if kind == _HISTORY:
                take_row(record)
                return
            collector.take(record)
            if kind == _STATS:
                sample = _raw_sample(record)
                if sample is not None:
                    system.add((sample[0], *named), sample[1], len(record.payload))
            elif kind == _OUTPUT:
                line = read_console_line(record)
                if line is not None:
                    console.add((line.time_s, *named, line.stream, line.text), {}, len(record.payload))
            elif kind == _ARTIFACT and self._artifacts:
                artifact = read_artifact(record)
                if artifact is not None:
                    self._copies.take(piece.reader, artifact)

        return take

    def _copy_files(self, piece: Piece) -> int:
        """The run's files; those of a later fragment replace those of an earlier one."""
        root = self._directory / "files"
        if self._fragments:
            root = root / piece.name
        count = 0
        for file in piece.reader.files():
            target = root / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, target, follow_symlinks=False)
            count += 1
        return count

    def _write_json(self, name: str, value: object) -> None:
        text = json.dumps(plain(value), ensure_ascii=False, indent=1)
        (self._directory / name).write_text(text + "\n", encoding="utf-8", errors="replace")

    def _describe(self, found: Sequence[LogFacts], rows: int) -> dict[str, Any]:
        last = found[-1]
        return {
            "run_id": last.run_id,
            "entity": last.entity,
            "project": last.project,
            "name": last.display_name,
            "group": last.group,
            "job_type": last.job_type,
            "tags": list(last.tags),
            "notes": last.notes,
            "host": last.host,
            "started_s": found[0].start_time_s,
            "exit_code": last.exit_code,
            "wandb_version": last.wandb_version,
            "python_version": last.python_version,
            "rows": rows,
            "rows_superseded": self._superseded,
            "fragments": [
                {"name": piece.name, "rows": item.rows, "first_step": item.first_step, "last_step": item.last_step}
                | {"ending": item.ending.kind.value, "clipped": sorted(item.clipped)}
                for piece, item in zip(self._pieces, found, strict=True)
            ],
            "artifacts": [
                {"name": each.name, "type": each.type, "digest": each.digest, "aliases": list(each.aliases)}
                | {"files": each.entries, "directory": self._copies.directories.get((each.name, each.digest))}
                for item in found
                for each in item.artifacts
            ],
            "artifact_files_missing": self._copies.missing,
        }


def _raw_sample(record: Record) -> tuple[float, dict[bytes, bytes]] | None:
    buf = record.payload
    try:
        start, end = content(record)
        places = messages(buf, start, end, 3)
        texts = {}
        for item_start, item_end in zip(places[::2], places[1::2], strict=True):
            path, json_text, _ = split_item(buf, item_start, item_end)
            texts[length_field(2, ".".join(path).encode("utf-8", "replace"))] = json_text or b"null"
        return time_of(record, start, end), texts
    except WireError:
        return None


def first_step(reader: RunReader) -> int | None:
    """The step of a fragment's first row."""
    with LogReader(reader.log, salvage=True) as records:
        for record in records:
            if record.kind == RecordKind.HISTORY:
                step = read_step_of(record)
                if step is not None:
                    return step
    return None


def superseded_from(first_steps: Sequence[int | None]) -> list[int | None]:
    """For each fragment, in the order of the run, the step from which on a later one supersedes it. Pure."""
    result: list[int | None] = []
    lowest: int | None = None
    for first in reversed(first_steps):
        result.append(lowest)
        if first is not None and (lowest is None or first < lowest):
            lowest = first
    return result[::-1]


def _merged(trees: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What a server shows after several fragments: later keys over earlier ones, without wandb's own."""
    merged: dict[str, object] = {}
    for tree in trees:
        merged.update(tree)
    merged.pop("_wandb", None)
    return merged
