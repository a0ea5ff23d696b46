"""The manifest: what a sealed fragment holds (docs/format.md).

Read with every field checked; written by the seal only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import durable
from .errors import DamagedError, SpoolFormatError
from .identity import Identity
from .layout import FORMAT, safe_relative

MANIFEST_NAME = "manifest.json"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class SealedFile:
    """One file as it was sealed. `path` is relative to the launch directory."""

    path: str
    size_bytes: int
    sha256: str
    kind: str  # log, file, staged, debug
    source: str | None = None  # for staged files: the absolute path that the log names


@dataclass(frozen=True)
class Manifest:
    """What a fragment holds, and how much of it was lost before the seal."""

    spool_id: str
    launch: str
    fragment: str
    run_id: str | None
    entity: str | None
    project: str | None
    name: str | None
    group: str | None
    job_type: str | None
    predecessor: str | None
    started: str | None
    sealed: str
    sealed_on: str
    provisional: bool
    writer: Identity | None
    hook: str
    log_path: str | None
    log_ending: str
    log_good_bytes: int
    log_records: int
    log_damage: tuple[tuple[int, int], ...]
    rows_logged: int | None
    rows_kept: int
    calls_refused: int | None
    first_step: int | None
    last_step: int | None
    exit_code: int | None
    exit_known_from: str
    process_exit_code: int | None
    wandb_version: str | None
    python_version: str | None
    base_url: str | None
    overridden: tuple[str, ...]
    alerts: int
    files: tuple[SealedFile, ...]
    artifacts: tuple[dict[str, Any], ...]
    changed: tuple[dict[str, Any], ...]

    @property
    def rows_lost(self) -> int | None:
        """Rows that were logged and are not in the log; None where nobody counted."""
        return None if self.rows_logged is None else max(0, self.rows_logged - self.rows_kept)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.files)

    def as_json(self) -> dict[str, Any]:
        body = {"format": FORMAT, **asdict(self)}
        for key in ("log_path", "log_ending", "log_good_bytes", "log_records", "log_damage"):
            del body[key]
        body["log"] = {
            "path": self.log_path,
            "ending": self.log_ending,
            "good_bytes": self.log_good_bytes,
            "records": self.log_records,
            "damage": [list(span) for span in self.log_damage],
        }
        body["writer"] = None if self.writer is None else self.writer.as_json()
        body["rows_logged"] = UNKNOWN if self.rows_logged is None else self.rows_logged
        body["rows_lost"] = UNKNOWN if self.rows_lost is None else self.rows_lost
        body["calls_refused"] = UNKNOWN if self.calls_refused is None else self.calls_refused
        return body


def write_manifest(run_directory: Path, manifest: Manifest, *, mode: int | None = None) -> str:
    """Write the manifest durably; returns its SHA-256."""
    content = durable.write_json(run_directory / MANIFEST_NAME, manifest.as_json(), mode=mode)
    return hashlib.sha256(content).hexdigest()


def read_manifest(run_directory: Path) -> tuple[Manifest, str]:
    """The manifest of a sealed fragment and the SHA-256 of its bytes.

    Raises FileNotFoundError when the fragment is not sealed or its directory vanished, DamagedError when the file is
    not a manifest, SpoolFormatError when it is of a newer format, StorageError when it can't be read.
    """
    path = run_directory / MANIFEST_NAME
    try:
        content = durable.read_bytes(path)
        return manifest_from_json(durable.decode_json(content)), hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise DamagedError(
            f"the manifest is damaged ({error})",
            path=path,
            hint="the log beside it is untouched; look at both before you release it",
        ) from error


def manifest_from_json(body: Mapping[str, Any]) -> Manifest:
    """Build a manifest; raises KeyError, TypeError or ValueError for anything that format 1 doesn't say."""
    found = _count(body["format"])
    if found > FORMAT:
        raise SpoolFormatError(f"the manifest is of format {found}, this version reads {FORMAT}")
    if found != FORMAT:
        raise ValueError(f"format {found}")
    log = body["log"]
    return Manifest(
        spool_id=_text(body["spool_id"]),
        launch=_text(body["launch"]),
        fragment=_text(body["fragment"]),
        **{key: _optional_text(body.get(key), key) for key in _OPTIONAL_TEXTS},
        sealed=_text(body["sealed"]),
        sealed_on=_text(body["sealed_on"]),
        provisional=bool(body.get("provisional")),
        writer=Identity.from_json(body.get("writer")),
        hook=_text(body["hook"]),
        log_path=_optional_text(log.get("path"), "log.path"),
        log_ending=_text(log["ending"]),
        log_good_bytes=_count(log["good_bytes"]),
        log_records=_count(log["records"]),
        log_damage=tuple((_count(span[0]), _count(span[1])) for span in log.get("damage") or ()),
        rows_logged=_known(body.get("rows_logged")),
        rows_kept=_count(body["rows_kept"]),
        calls_refused=_known(body.get("calls_refused")),
        first_step=_integer(body.get("first_step")),
        last_step=_integer(body.get("last_step")),
        exit_code=_integer(body.get("exit_code")),
        exit_known_from=_text(body.get("exit_known_from", UNKNOWN)),
        process_exit_code=_integer(body.get("process_exit_code")),
        overridden=tuple(_text(item) for item in body.get("overridden") or ()),
        alerts=_count(body.get("alerts", 0)),
        files=tuple(_sealed_file(item) for item in body["files"]),
        artifacts=tuple(dict(item) for item in body.get("artifacts") or ()),
        changed=tuple(dict(item) for item in body.get("changed") or ()),
    )


_OPTIONAL_TEXTS = (
    "run_id",
    "entity",
    "project",
    "name",
    "group",
    "job_type",
    "predecessor",
    "started",
    "wandb_version",
    "python_version",
    "base_url",
)


def _sealed_file(item: Mapping[str, Any]) -> SealedFile:
    path = _text(item["path"])
    if safe_relative(path) is None:
        raise ValueError(f"the file {path!r} leads out of the launch directory")
    digest = _text(item["sha256"])
    if len(digest) != 64:
        raise ValueError(f"no SHA-256 for {path!r}")
    source = _optional_text(item.get("source"), "source")
    return SealedFile(path, _count(item["size_bytes"]), digest, _text(item.get("kind", "file")), source)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _optional_text(value: object, key: str) -> str | None:
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"`{key}` is not a text")
    return value


def _integer(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _count(value: object) -> int:
    number = _integer(value)
    if number is None or number < 0:
        raise ValueError(f"{value!r} is not a count")
    return number


def _known(value: object) -> int | None:
    return None if value in (None, UNKNOWN) else _count(value)
