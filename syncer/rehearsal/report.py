"""What the rehearsal server was sent, judged: the words and numbers that a test or a rehearsal ends with.

`Report` is plain frozen data and goes through JSON unchanged (`to_json`, `from_json`). It is made from what is stored,
so it says the same after a restart, and it ignores what is shown late.

A run's rows are what a reader of its history sees, one per step unless the server keeps duplicates. Beside them:
* `doubled`: steps whose row stands on more than one line (the same row arrived again and was appended);
* `conflicting`: steps that have lines with different values;
* `moved`: rows that stand on two steps (wandb's `_timestamp` and values agree), as (step, other step);
* `overwritten`: lines whose row gave way to another one; `rewritten`: lines sent again with the same content at the
  same place, which is harmless; `holes`: line numbers that were skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

RowList = tuple[tuple[int, dict[str, Any]], ...]


class FileReport(NamedTuple):
    """A file's bytes."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ArtifactReport:
    """A version that a run logged; `files` by path, references left out."""

    name: str
    type: str
    version: int | None
    state: str
    digest: str
    aliases: tuple[str, ...]
    files: Mapping[str, FileReport]


@dataclass(frozen=True)
class RunReport:
    """Everything that the server holds for one run."""

    entity: str
    project: str
    run_id: str
    display_name: str | None
    state: str
    exit_code: int | None
    deleted: bool
    rows: RowList
    row_count: int
    lines: int
    lines_received: int
    rewritten: int
    overwritten: int
    holes: int
    doubled: tuple[int, ...]
    conflicting: tuple[int, ...]
    moved: tuple[tuple[int, int], ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    files: Mapping[str, FileReport]
    uploads: Mapping[str, int]
    artifacts: tuple[ArtifactReport, ...]
    console: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self.rows)

    @property
    def once_and_in_place(self) -> bool:
        """No row doubled, none with two values, none moved, none overwritten, no line skipped."""
        return not (self.doubled or self.conflicting or self.moved or self.overwritten or self.holes)


@dataclass(frozen=True)
class AlertReport:
    """An alert that would have reached somebody."""

    entity: str
    project: str
    run_id: str
    title: str
    text: str
    severity: str


@dataclass(frozen=True)
class Report:
    """The whole server: runs by (entity, project, run id), alerts, requests by endpoint, faults that struck."""

    runs: Mapping[tuple[str, str, str], RunReport]
    alerts: tuple[AlertReport, ...]
    requests: Mapping[str, int]
    struck: tuple[Mapping[str, Any], ...]
    misunderstood: tuple[str, ...]  # GraphQL errors: what was asked that this server does not know

    def run(self, run_id: str) -> RunReport:
        """The one run with this id; a KeyError when there is none or more than one."""
        found = [run for key, run in self.runs.items() if key[2] == run_id]
        if len(found) != 1:
            raise KeyError(f"{len(found)} runs have the id {run_id!r}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [_run_json(run) for run in self.runs.values()],
            "alerts": [dataclasses.asdict(alert) for alert in self.alerts],
            "requests": dict(self.requests),
            "struck": [dict(strike) for strike in self.struck],
            "misunderstood": list(self.misunderstood),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        runs = [_run_from_json(run) for run in data["runs"]]
        return cls(
            runs={(run.entity, run.project, run.run_id): run for run in runs},
            alerts=tuple(AlertReport(**alert) for alert in data["alerts"]),
            requests=dict(data["requests"]),
            struck=tuple(data["struck"]),
            misunderstood=tuple(data["misunderstood"]),
        )


def _run_json(run: RunReport) -> dict[str, Any]:
    plain = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    artifacts = [{**dataclasses.asdict(artifact), "files": dict(artifact.files)} for artifact in run.artifacts]
    return {**plain, "artifacts": artifacts}


def _run_from_json(data: Mapping[str, Any]) -> RunReport:
    changed = {
        "rows": tuple((step, row) for step, row in data["rows"]),
        "moved": tuple((step, other) for step, other in data["moved"]),
        "files": _files(data["files"]),
        "artifacts": tuple(
            ArtifactReport(**{**a, "aliases": tuple(a["aliases"]), "files": _files(a["files"])})
            for a in data["artifacts"]
        ),
        **{name: tuple(data[name]) for name in ("doubled", "conflicting", "console", "tags")},
    }
    return RunReport(**{**data, **changed})


def _files(data: Mapping[str, Any]) -> dict[str, FileReport]:
    return {name: FileReport(*file) for name, file in data.items()}
