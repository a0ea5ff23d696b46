"""Artifacts and where their bytes lie.

Guarantees: entries are decoded one by one, so an artifact with a hundred thousand of them costs no memory. Very large
manifests lie in a file of their own beside the log (gzip of JSON lines, named by `manifest_file_path`); the log holds
only its path, `Artifact.entries` reads the log, `read_manifest_file` reads that file.

Fails with `WireError` (record is no artifact) and, for the manifest file, with `OSError` and `ManifestFileError`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wandb_spool.spool.log.framing import LogReader
from wandb_spool.spool.log.record import Record, RecordKind, content, with_content
from wandb_spool.spool.log.wire import (
    WireError,
    fields,
    integer,
    replace_fields,
    require_message,
    text,
)

_TYPE, _NAME, _DIGEST, _ALIAS, _MANIFEST, _TAG = 4, 5, 6, 11, 12, 19
_CONTENTS, _MANIFEST_FILE = 4, 5
_PATH, _ENTRY_DIGEST, _REF, _SIZE, _LOCAL_PATH = 1, 2, 3, 4, 6
_MAX_LINE_BYTES = 1024 * 1024
_MAX_NAMES = 1000


class ManifestFileError(ValueError):
    """This file is not a manifest file."""


@dataclass(frozen=True)
class ArtifactEntry:
    """One file of an artifact."""

    path: str
    digest: str
    """Base64 of the MD5, as wandb writes it; for a reference its ETag or the like."""
    size_bytes: int
    local_path: str
    """Where the bytes lay when the record was written; empty for a reference."""
    ref: str = ""


@dataclass(frozen=True)
class Artifact:
    """One logged artifact; `entries()` walks its files."""

    name: str
    type: str
    digest: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    manifest_file_path: str
    """Where a very large manifest lies; empty when the entries are in the log."""
    record_num: int
    _record: Record

    def entries(self) -> Iterator[ArtifactEntry]:
        """The entries that stand in the log; ends early where the record is no longer one."""
        try:
            yield from _entries(self._record)
        except WireError:
            return


def artifacts(source: Path | str | BinaryIO, *, salvage: bool = False) -> Iterator[Artifact]:
    """The artifacts that a log names. A record that cannot be read as one is left out."""
    with LogReader(source, salvage=salvage) as reader:
        for record in reader:
            if record.kind == RecordKind.ARTIFACT:
                artifact = read_artifact(record)
                if artifact is not None:
                    yield artifact


def read_artifact(record: Record) -> Artifact | None:
    """The artifact in a record; None when it is not one."""
    try:
        return _read_artifact(record)
    except WireError:
        return None


def _read_artifact(record: Record) -> Artifact:
    buf = record.payload
    texts = {_TYPE: "", _NAME: "", _DIGEST: ""}
    aliases: list[str] = []
    tags: list[str] = []
    manifest_file = ""
    for field in fields(buf, *content(record)):
        if field.number in texts:
            texts[field.number] = text(buf, field)
        elif field.number == _ALIAS and len(aliases) < _MAX_NAMES:
            aliases.append(text(buf, field))
        elif field.number == _TAG and len(tags) < _MAX_NAMES:
            tags.append(text(buf, field))
        elif field.number == _MANIFEST:
            manifest_file = _manifest_file_path(buf, field.start, require_message(field).end) or manifest_file
    return Artifact(
        name=texts[_NAME],
        type=texts[_TYPE],
        digest=texts[_DIGEST],
        aliases=tuple(aliases),
        tags=tuple(tags),
        manifest_file_path=manifest_file,
        record_num=record.num,
        _record=record,
    )


def _manifest_file_path(buf: bytes, start: int, end: int) -> str:
    path = ""
    for field in fields(buf, start, end):
        if field.number == _MANIFEST_FILE:
            path = text(buf, field)
    return path


def _entries(record: Record) -> Iterator[ArtifactEntry]:
    buf = record.payload
    for manifest in fields(buf, *content(record)):
        if manifest.number == _MANIFEST:
            for field in fields(buf, manifest.start, require_message(manifest).end):
                if field.number == _CONTENTS:
                    yield _read_entry(buf, field.start, require_message(field).end)


def _read_entry(buf: bytes, start: int, end: int) -> ArtifactEntry:
    texts = {_PATH: "", _ENTRY_DIGEST: "", _REF: "", _LOCAL_PATH: ""}
    size = 0
    for field in fields(buf, start, end):
        if field.number in texts:
            texts[field.number] = text(buf, field)
        elif field.number == _SIZE:
            size = integer(buf, field)
    return ArtifactEntry(texts[_PATH], texts[_ENTRY_DIGEST], size, texts[_LOCAL_PATH], texts[_REF])


def with_local_paths(
    record: Record,
    new_local_path: Callable[[str], str],
    new_manifest_file_path: Callable[[str], str] | None = None,
) -> Record:
    """An artifact record whose entries' bytes lie elsewhere. Everything else keeps its bytes.

    The manifest file, where there is one, gets its new place from `new_manifest_file_path` (else from
    `new_local_path`); the paths inside it are rewritten by `rewrite_manifest_file`.
    """

    def entry(message: bytes) -> bytes:
        return _map_text(message, _LOCAL_PATH, new_local_path)

    def manifest(message: bytes) -> bytes:
        message = _map_text(message, _MANIFEST_FILE, new_manifest_file_path or new_local_path)
        return replace_fields(message, _CONTENTS, entry)

    start, end = content(record)
    return with_content(record, replace_fields(record.payload[start:end], _MANIFEST, manifest))


def _map_text(message: bytes, number: int, new_text: Callable[[str], str]) -> bytes:
    return replace_fields(message, number, lambda old: new_text(str(old, "utf-8", "replace")).encode())


def read_manifest_file(path: Path) -> Iterator[ArtifactEntry]:
    """The entries of a manifest file."""
    for line in _lines(path):
        entry = _parse_line(path, line)
        size = entry.get("size", 0)
        yield ArtifactEntry(
            path=str(entry.get("path", "")),
            digest=str(entry.get("digest", "")),
            size_bytes=size if isinstance(size, int) else 0,
            local_path=str(entry.get("local_path") or ""),
            ref=str(entry.get("ref") or ""),
        )


def rewrite_manifest_file(source: Path, target: Path, new_local_path: Callable[[str], str]) -> None:
    """Copy a manifest file with the local paths of its entries changed. `target` must not exist."""
    with target.open("xb") as raw, gzip.open(raw, "wb", compresslevel=1) as out:
        for line in _lines(source):
            entry = _parse_line(source, line)
            if entry.get("local_path"):
                entry["local_path"] = new_local_path(str(entry["local_path"]))
            out.write(json.dumps(entry).encode() + b"\n")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(_MAX_LINE_BYTES + 1):
                if len(line) > _MAX_LINE_BYTES:
                    raise ManifestFileError(f"{path}: an entry is larger than {_MAX_LINE_BYTES} bytes")
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestFileError(f"{path}: {error}") from error


def _parse_line(path: Path, line: bytes) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestFileError(f"{path}: {error}") from error
    if not isinstance(entry, dict):
        raise ManifestFileError(f"{path}: an entry is no object")
    return entry
