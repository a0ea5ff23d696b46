"""A new log made from an old one: record by record, through a transform.

Guarantees: what a transform does not touch keeps its bytes, known to us or not; the source is only read; memory does
not grow with the log. The framing is wandb's own, so a rewrite that changes nothing gives the same file. A record that
cannot be read as what its kind says is passed on as it is.

Fails with `OSError` only. How the source ended, and with salvage what was passed over, stands in `Rewrite`.

A transform takes a record and returns it, another one, or None to leave it out. The ones that keep state (`renumber`)
serve for one rewrite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wandb_spool.spool.log.artifacts import with_local_paths
from wandb_spool.spool.log.framing import Damage, Ending, LogReader, LogWriter
from wandb_spool.spool.log.record import Record, RecordKind, content, with_content
from wandb_spool.spool.log.rows import read_step_of
from wandb_spool.spool.log.wire import WireError, integer_field, length_field, set_fields, text_field

Transform = Callable[[Record], "Record | None"]

_RUN_TEXTS = {
    "run_id": 1,
    "entity": 2,
    "project": 3,
    "group": 6,
    "job_type": 7,
    "display_name": 8,
    "notes": 9,
}
_RUN_CONFIG, _RUN_SUMMARY = 4, 5
_UPDATE, _ITEM_KEY, _ITEM_JSON = 1, 1, 16
_ARTIFACT_OWNER = {"run_id": 1, "project": 2, "entity": 3}
_EXIT_CODE = 1
_RUN_TAGS, _RUN_RESUMED, _RUN_RESUME = 10, 18, 24


@dataclass(frozen=True)
class Rewrite:
    """What a rewrite did."""

    records_written: int
    records_dropped: int
    size_bytes: int
    ending: Ending
    damage: tuple[Damage, ...]


def rewrite(
    source: Path | str | BinaryIO,
    target: Path | str | BinaryIO,
    transform: Transform | None = None,
    *,
    salvage: bool = False,
) -> Rewrite:
    """Write the records of `source`, as `transform` leaves them, into the new log `target`."""
    written = dropped = 0
    with LogReader(source, salvage=salvage) as reader, LogWriter(target) as writer:
        for record in reader:
            changed = transform(record) if transform else record
            if changed is None:
                dropped += 1
            else:
                writer.write(changed)
                written += 1
        return Rewrite(written, dropped, writer.size_bytes, reader.ending, tuple(reader.damage))


def chain(*transforms: Transform) -> Transform:
    """One transform after another, until one leaves the record out."""

    def apply(record: Record) -> Record | None:
        current: Record | None = record
        for transform in transforms:
            if current is None:
                return None
            current = transform(current)
        return current

    return apply


def renumber(first: int = 1) -> Transform:
    """Sequence numbers without gaps, from `first` on."""
    num = first - 1

    def apply(record: Record) -> Record:
        nonlocal num
        num += 1
        return record if record.num == num else record.with_num(num)

    return apply


def keep_steps(wanted: Callable[[int], bool]) -> Transform:
    """Keep only the rows whose step is wanted. Records that are no rows stay; an unreadable row goes."""

    def apply(record: Record) -> Record | None:
        if record.kind != RecordKind.HISTORY:
            return record
        step = read_step_of(record)
        return record if step is not None and wanted(step) else None

    return apply


def keep_steps_in(ranges: Iterable[range]) -> Transform:
    kept = tuple(ranges)
    return keep_steps(lambda step: any(step in each for each in kept))


def drop_steps_in(ranges: Iterable[range]) -> Transform:
    dropped = tuple(ranges)
    return keep_steps(lambda step: not any(step in each for each in dropped))


def drop_kinds(*kinds: RecordKind | int) -> Transform:
    """Leave out every record of these kinds, for instance `RecordKind.ALERT`."""
    unwanted = frozenset(int(kind) for kind in kinds)
    return lambda record: None if record.kind in unwanted else record


def set_resume(resume: bool = True) -> Transform:
    """Set the flag that makes `wandb sync` go on behind the rows that the server has, as docs/log-format.md says."""
    return _change_run({_RUN_RESUME: integer_field(_RUN_RESUME, int(resume))})


def override_run(
    *,
    entity: str | None = None,
    project: str | None = None,
    run_id: str | None = None,
    display_name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    notes: str | None = None,
    tags: Iterable[str] | None = None,
) -> Transform:
    """Give the run another identity or description; what is None stays as it is."""
    given = {
        "entity": entity,
        "project": project,
        "run_id": run_id,
        "display_name": display_name,
        "group": group,
        "job_type": job_type,
        "notes": notes,
    }
    new = {_RUN_TEXTS[name]: text_field(_RUN_TEXTS[name], value) for name, value in given.items() if value is not None}
    if tags is not None:
        new[_RUN_TAGS] = b"".join(length_field(_RUN_TAGS, tag.encode()) for tag in tags)
    return chain(_change_run(new), _change_owner(entity=entity, project=project, run_id=run_id))


def set_config(config: Mapping[str, object]) -> Transform:
    """Say this whole config at the run's begin, and nothing of it later."""
    change = _change_run({_RUN_CONFIG: length_field(_RUN_CONFIG, _items(config))})
    return chain(drop_kinds(RecordKind.CONFIG), change)


def without_summary() -> Transform:
    """Say nothing of the summary; see `summary_record`."""
    return chain(drop_kinds(RecordKind.SUMMARY), _change_run({_RUN_SUMMARY: b""}))


def summary_record(summary: Mapping[str, object]) -> Record:
    """A whole summary. It has to stand behind the rows: the client takes the summary's step from the last of them."""
    return Record(RecordKind.SUMMARY, 0, length_field(int(RecordKind.SUMMARY), _items(summary)), 0)


def _items(values: Mapping[str, object]) -> bytes:
    return b"".join(
        length_field(_UPDATE, text_field(_ITEM_KEY, key) + length_field(_ITEM_JSON, json.dumps(value).encode()))
        for key, value in values.items()
    )


def _change_owner(*, entity: str | None, project: str | None, run_id: str | None) -> Transform:
    """Artifact records name the run that logs them too; a server refuses one of a run that it does not have."""
    given = {"run_id": run_id, "project": project, "entity": entity}
    new = {
        _ARTIFACT_OWNER[name]: text_field(_ARTIFACT_OWNER[name], value)
        for name, value in given.items()
        if value is not None
    }

    def apply(record: Record) -> Record:
        if record.kind != RecordKind.ARTIFACT or not new:
            return record
        try:
            start, end = content(record)
            return with_content(record, set_fields(record.payload[start:end], new))
        except WireError:
            return record

    return apply


def set_exit_code(exit_code: int) -> Transform:
    """How the run ended, where the log says that it did."""

    def apply(record: Record) -> Record:
        if record.kind != RecordKind.EXIT:
            return record
        try:
            start, end = content(record)
            new = {_EXIT_CODE: integer_field(_EXIT_CODE, exit_code % (1 << 64))}
            return with_content(record, set_fields(record.payload[start:end], new))
        except WireError:
            return record

    return apply


def move_artifacts(
    new_local_path: Callable[[str], str], new_manifest_file_path: Callable[[str], str] | None = None
) -> Transform:
    """Say where artifact bytes lie now. See `artifacts.with_local_paths` and `rewrite_manifest_file`."""

    def apply(record: Record) -> Record:
        if record.kind != RecordKind.ARTIFACT:
            return record
        try:
            return with_local_paths(record, new_local_path, new_manifest_file_path)
        except WireError:
            return record

    return apply


def _change_run(new_fields: dict[int, bytes]) -> Transform:
    def apply(record: Record) -> Record:
        if record.kind != RecordKind.RUN:
            return record
        try:
            start, end = content(record)
            return with_content(record, set_fields(record.payload[start:end], new_fields))
        except WireError:
            return record

    return apply
