"""Makes the report: reads every stored line once and says what arrived twice, elsewhere, or otherwise. Read only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wandb_spool.syncer.rehearsal.blobs import Blob
from wandb_spool.syncer.rehearsal.faults import Strike
from wandb_spool.syncer.rehearsal.lines import History
from wandb_spool.syncer.rehearsal.model import Artifact, Run
from wandb_spool.syncer.rehearsal.report import AlertReport, ArtifactReport, FileReport, Report, RunReport
from wandb_spool.syncer.rehearsal.rows import json_safe, parse_row, row_digest, row_step, value_digest
from wandb_spool.syncer.rehearsal.service import Service
from wandb_spool.syncer.rehearsal.store import CONSOLE, Store


def make_report(service: Service, *, rows: bool = True) -> Report:
    """The report; without `rows` it leaves the rows themselves out and keeps every count and verdict."""
    with service.store.lock:
        store = service.store
        return Report(
            runs={(*key,): _run(service, run, rows) for key, run in store.runs.items()},
            alerts=tuple(AlertReport(*a.run, a.title, a.text, a.severity) for a in store.alerts),
            requests=dict(sorted(service.requests.items())),
            struck=tuple(_strike(strike) for strike in service.plan.struck),
            misunderstood=tuple(service.misunderstood),
        )


@dataclass
class _Verdict:
    """What the lines of one history are, when all were read."""

    doubled: set[int] = field(default_factory=set)
    conflicting: set[int] = field(default_factory=set)
    moved: set[tuple[int, int]] = field(default_factory=set)


def _judge(history: History) -> _Verdict:
    verdict = _Verdict(moved=set(history.moved_in_place))
    first_value: dict[int, int] = {}
    first_step: dict[int, int] = {}
    numbers = history.numbers()
    for number, line in zip(numbers, history.read(numbers), strict=True):
        row = parse_row(line)
        step, value, identity = row_step(row, number), value_digest(row), row_digest(row)
        if step in first_value:
            (verdict.doubled if first_value[step] == value else verdict.conflicting).add(step)
        first_value.setdefault(step, value)
        home = first_step.setdefault(identity, step)
        if home != step:
            verdict.moved.add((home, step))
    return verdict


def _run(service: Service, run: Run, with_rows: bool) -> RunReport:
    store, history = service.store, service.store.history(run.key)
    verdict = _judge(history)
    shown = history.select(None, None, service.behaviour.duplicates)
    rows = tuple(_rows(history, shown)) if with_rows else ()
    return RunReport(
        **run.key._asdict(),
        display_name=run.attributes.get("displayName"),
        state=run.state,
        exit_code=run.exit_code,
        deleted=run.deleted,
        rows=rows,
        row_count=len(shown),
        lines=len(history),
        lines_received=history.received,
        rewritten=history.rewritten,
        overwritten=history.overwritten,
        holes=len(history) - len(history.numbers()),
        doubled=tuple(sorted(verdict.doubled)),
        conflicting=tuple(sorted(verdict.conflicting)),
        moved=tuple(sorted(verdict.moved)),
        config=_config(run.attributes.get("config", "{}")),
        summary=json_safe(json.loads(store.summary(run.key))),
        files={name: _file(file.blob) for name, file in sorted(run.files.items())},
        uploads={name: file.uploads for name, file in sorted(run.files.items())},
        artifacts=tuple(_artifact(store, store.artifacts[number]) for number in run.outputs),
        console=tuple(store.stream(run.key, CONSOLE).tail(len(store.stream(run.key, CONSOLE)) or 1)),
        tags=tuple(run.attributes.get("tags", ())),
    )


def _rows(history: History, numbers: list[int]) -> list[tuple[int, dict[str, Any]]]:
    lines = zip(numbers, history.read(numbers), strict=True)
    return [(history.steps[number], json_safe(parse_row(line))) for number, line in lines]


def _config(text: str) -> dict[str, Any]:
    """The config as the user wrote it: the values, without wandb's own entry."""
    tree: Mapping[str, Any] = json.loads(text)
    values = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in tree.items()}
    return {key: json_safe(value) for key, value in values.items() if key != "_wandb"}


def _file(blob: Blob) -> FileReport:
    return FileReport(blob.size_bytes, blob.sha256)


def _artifact(store: Store, artifact: Artifact) -> ArtifactReport:
    collection = store.collections[artifact.collection]
    blobs: dict[str, Blob | None] = {entry.path: store.blob_of(entry.birth, entry.digest) for entry in artifact.entries}
    return ArtifactReport(
        name=collection.key.name,
        type=collection.type,
        version=artifact.version,
        state=artifact.state,
        digest=artifact.digest,
        aliases=tuple(sorted(a for a, number in collection.aliases.items() if number == artifact.number)),
        files={path: _file(blob) for path, blob in blobs.items() if blob},
    )


def _strike(strike: Strike) -> Mapping[str, Any]:
    return {**strike.fault.to_json(), "at": strike.endpoint, "count": strike.count}
