"""What a log says about its run, in one pass.

Guarantees: one streaming pass; memory is bounded whatever the log holds. Where a bound was met, `LogFacts.clipped`
names what is not complete: counts are always exact, lists and the texts of config and summary are not. Records that
cannot be read as what their kind says are counted in `malformed_records` and otherwise ignored.

Fails with `OSError` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from wandb_spool.spool.log.artifacts import read_artifact
from wandb_spool.spool.log.framing import Damage, Ending, EndingKind, LogReader, NumGap
from wandb_spool.spool.log.items import key_path, parse_json, plain_items, split_item
from wandb_spool.spool.log.record import Record, RecordKind, content
from wandb_spool.spool.log.rows import read_step_of
from wandb_spool.spool.log.wire import Field, WireError, fields, integer, messages, require_message, text

_MAX_TREE_BYTES = 32 * 1024 * 1024
_MAX_TREE_KEYS = 200_000
_MAX_LISTED = 100_000
_MAX_LISTED_BYTES = 32 * 1024 * 1024
_MAX_TEXT = 64 * 1024
_MAX_DEPTH = 64
_MAX_WAITING_BYTES = 256 * 1024


_KNOWN_KINDS = 128
_UNKNOWN_KIND = -1
_SUMMARY = int(RecordKind.SUMMARY)
_RUN_TEXTS = {
    1: "run_id",
    2: "entity",
    3: "project",
    6: "group",
    7: "job_type",
    8: "display_name",
    9: "notes",
    12: "sweep_id",
    13: "host",
}
_POLICIES = ("now", "end", "live")
_FILE_TYPES = ("other", "wandb", "media", "artifact")
_GOALS = ("", "minimize", "maximize")
_SUMMARIES = {1: "min", 2: "max", 3: "mean", 4: "best", 5: "last", 6: "none", 7: "copy", 8: "first"}

_V = TypeVar("_V")


@dataclass(frozen=True)
class NamedFile:
    """A file that the log names, by its path below the run's `files` directory."""

    path: str
    policy: str
    """`now`, `end` or `live`."""
    type: str
    """`other`, `wandb`, `media` or `artifact`."""


@dataclass(frozen=True)
class NamedArtifact:
    """An artifact that the log names; `artifacts` walks its entries."""

    name: str
    type: str
    digest: str
    aliases: tuple[str, ...]
    entries: int
    size_bytes: int
    manifest_file_path: str


@dataclass(frozen=True)
class DefinedMetric:
    name: str
    """The metric, or the glob that was given."""
    step_metric: str
    summaries: tuple[str, ...]
    hidden: bool
    goal: str


@dataclass(frozen=True)
class LogFacts:
    ending: Ending
    good_bytes: int
    records: int
    malformed_records: int
    records_by_kind: dict[int, int]
    """Kinds above 127 that we do not know are counted together under -1."""
    num_gaps: tuple[NumGap, ...]
    missing_records: int
    damage: tuple[Damage, ...]
    damaged_bytes: int
    clipped: frozenset[str]

    run_id: str
    entity: str
    project: str
    display_name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    notes: str
    sweep_id: str
    host: str
    start_time_s: float | None
    """Seconds since the epoch, by the clock of the machine that trained."""
    starting_step: int
    resumed: bool
    resume: bool
    """`resume=` was asked for: the log's rows go on behind those that the server has."""
    wandb_version: str
    python_version: str
    config: dict[str, object]
    summary: dict[str, object]

    rows: int
    first_step: int | None
    last_step: int | None
    steps_increase: bool
    """Every row's step is above the one before."""
    exit_code: int | None
    """None without an exit record; it is 0 in the log also after `raise SystemExit(n)`."""
    exit_not_complete: bool
    runtime_s: int
    preempting: bool

    files: tuple[NamedFile, ...]
    artifacts: tuple[NamedArtifact, ...]
    metrics: tuple[DefinedMetric, ...]
    alerts: int
    alert_times_s: tuple[float, ...]
    """Alerts carry no time: the newest time that stood in the log before each one, at most the first 1000."""
    console_lines: int
    stats: int

    @property
    def finished(self) -> bool:
        return self.ending.kind is EndingKind.FINISHED


def facts(source: Path | str | BinaryIO, *, salvage: bool = False) -> LogFacts:
    """Read a log once and say what is in it."""
    collector = FactsCollector()
    with LogReader(source, salvage=salvage) as reader:
        for record in reader:
            collector.take(record)
        return collector.conclude(reader)


class _Tree:
    """Config or summary under construction: the last text of every path, decoded only at the end.

    Replaying the paths in the order of their last change gives what applying every change would have given.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], bytes | None] = {}
        # A program sets the same keys in every row. Messages one behind the other are one message with the updates of
        # all: they are read together, and what matters is the last value of each key.
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._bytes = 0
        self.clipped = False
        self.malformed = 0

    def take(self, buf: bytes, start: int, end: int) -> None:
        """Apply a message with `update = 1` and `remove = 2`, now or later."""
        self._waiting.append(buf[start:end])
        self._waiting_bytes += end - start
        if self._waiting_bytes > _MAX_WAITING_BYTES:
            self.apply()

    def apply(self) -> None:
        """Take what waits into the tree."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        message = b"".join(waiting)
        plain, stop = plain_items(message, 0, len(message))
        paths = [_bounded(key_path(key)) for key in plain]
        if stop == len(message) and _independent(paths):
            for path, value in zip(paths, plain.values(), strict=True):
                self._set(path, value)
        else:
            for each in waiting:
                try:
                    self._apply_one(each)
                except WireError:
                    self.malformed += 1

    def _apply_one(self, message: bytes) -> None:
        for number in (1, 2):
            ends = iter(messages(message, 0, len(message), number))
            for start in ends:
                path, json_text, _ = split_item(message, start, next(ends))
                self._set(_bounded(path), (json_text or b"") if number == 1 else None)

    def _set(self, path: tuple[str, ...], value: bytes | None) -> None:
        if value is not None and path in self._texts:  # the common case: another value, of about the same size
            old = self._texts.pop(path)
            size = len(value) - len(old or b"")
            if self._bytes + size <= _MAX_TREE_BYTES:
                self._texts[path] = value
                self._bytes += size
                return
            self._texts[path] = old
        names = sum(map(len, path))
        if path in self._texts:
            self._bytes -= names + len(self._texts.pop(path) or b"")
        size = names + len(value or b"")
        if self._bytes + size > _MAX_TREE_BYTES or len(self._texts) >= _MAX_TREE_KEYS:
            self.clipped = True
        else:
            self._texts[path] = value
            self._bytes += size

    def tree(self) -> dict[str, object]:
        self.apply()
        root: dict[str, object] = {}
        for path, value in self._texts.items():
            node = root
            for part in path[:-1]:
                child = node.get(part)
                if not isinstance(child, dict):
                    child = node[part] = {}
                node = child
            if value is None:
                node.pop(path[-1], None)
            else:
                node[path[-1]] = parse_json(value)
        return root


def _independent(paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether no path is a part of another, or the same: then the order of changes does not matter."""
    known = set(paths)
    return len(known) == len(paths) and not any(
        path[:length] in known for path in paths for length in range(1, len(path))
    )


def _bounded(path: tuple[str, ...]) -> tuple[str, ...]:
    return path if len(path) <= _MAX_DEPTH else (*path[:_MAX_DEPTH], ".".join(path[_MAX_DEPTH:]))


@dataclass
class FactsCollector:
    """`facts` for somebody who reads the records for other ends too: `take` each, then `conclude`."""

    kinds: list[int] = field(default_factory=lambda: [0] * (_KNOWN_KINDS + 1))
    """How many records of each kind; the last element counts the unknown ones."""
    malformed: int = 0
    run: dict[int, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    config: _Tree = field(default_factory=_Tree)
    summary: _Tree = field(default_factory=_Tree)
    start_time_s: float | None = None
    starting_step: int = 0
    resumed: bool = False
    resume: bool = False
    wandb_version: str = ""
    python_version: str = ""
    host: str = ""
    rows: int = 0
    first_step: int | None = None
    last_step: int | None = None
    steps_increase: bool = True
    exit_code: int | None = None
    exit_not_complete: bool = False
    runtime_s: int = 0
    files: dict[str, NamedFile] = field(default_factory=dict)
    artifacts: list[NamedArtifact] = field(default_factory=list)
    metrics: dict[str, DefinedMetric] = field(default_factory=dict)
    alert_times_s: list[float] = field(default_factory=list)
    clock_s: float = 0.0
    text_bytes: int = 0
    clipped: set[str] = field(default_factory=set)

    def take(self, record: Record) -> None:
        kind = record.kind if record.kind < _KNOWN_KINDS else _UNKNOWN_KIND
        self.kinds[kind] += 1
        if kind == _SUMMARY and record.content_at:  # two of three records of a log
            self.summary.take(record.payload, record.content_at, len(record.payload))
            return
        take = _TAKE[kind]
        if take is not None:
            try:
                take(self, record)
            except WireError:
                self.malformed += 1

    def _take_history(self, record: Record) -> None:
        step = read_step_of(record)
        if step is None:
            raise WireError("history without a step")
        self._take_step(step)

    def take_row(self, step: int | None) -> None:
        """The same as `take` for a history record of which the step was read already."""
        self.kinds[RecordKind.HISTORY] += 1
        if step is None:
            self.malformed += 1
        else:
            self._take_step(step)

    def _take_step(self, step: int) -> None:
        self.rows += 1
        if self.first_step is None:
            self.first_step = step
        elif self.last_step is not None and step <= self.last_step:
            self.steps_increase = False
        self.last_step = step

    def _take_summary(self, record: Record) -> None:
        self.summary.take(record.payload, *content(record))

    def _take_config(self, record: Record) -> None:
        self.config.take(record.payload, *content(record))

    def _take_run(self, record: Record) -> None:
        buf = record.payload
        tags: list[str] = []
        for each in fields(buf, *content(record)):
            number = each.number
            if number in _RUN_TEXTS:
                self.run[number] = _short(text(buf, each))
            elif number == 4:
                self.config.take(buf, each.start, require_message(each).end)
            elif number == 5:
                self.summary.take(buf, each.start, require_message(each).end)
            elif number == 10:
                tag = _short(text(buf, each))
                if self._room("tags", len(tags), len(tag)):
                    tags.append(tag)
            elif number == 17:
                self.start_time_s = _timestamp(buf, each)
            elif number == 19:
                self._take_telemetry_message(buf, each.start, require_message(each).end)
            elif number == 14:
                self.starting_step = integer(buf, each)
            elif number == 18:
                self.resumed = bool(integer(buf, each))
            elif number == 24:
                self.resume = bool(integer(buf, each))
        self.tags = tags
        self.clock_s = self.start_time_s or 0.0

    def _take_telemetry(self, record: Record) -> None:
        self._take_telemetry_message(record.payload, *content(record))

    def _take_telemetry_message(self, buf: bytes, start: int, end: int) -> None:
        for each in fields(buf, start, end):
            if each.number == 4:
                self.python_version = _short(text(buf, each))
            elif each.number == 5:
                self.wandb_version = _short(text(buf, each))

    def _take_environment(self, record: Record) -> None:
        for each in fields(record.payload, *content(record)):
            if each.number == 12:
                self.host = _short(text(record.payload, each))

    def _take_exit(self, record: Record) -> None:
        code = runtime = 0
        not_complete = False
        for each in fields(record.payload, *content(record)):
            if each.number == 1:
                code = integer(record.payload, each)
            elif each.number == 2:
                runtime = integer(record.payload, each)
            elif each.number == 3:
                not_complete = bool(integer(record.payload, each))
        self.exit_code, self.runtime_s, self.exit_not_complete = code, runtime, not_complete

    def _take_files(self, record: Record) -> None:
        buf = record.payload
        for each in fields(buf, *content(record)):
            if each.number == 1:
                named = _read_file(buf, each.start, require_message(each).end)
                self._keep("files", self.files, named.path, named)

    def _take_metric(self, record: Record) -> None:
        metric = _read_metric(record)
        self._keep("metrics", self.metrics, metric.name, metric)

    def _take_artifact(self, record: Record) -> None:
        artifact = read_artifact(record)
        if artifact is None:
            raise WireError("no artifact")
        entries = size = 0
        for entry in artifact.entries():
            entries += 1
            size += entry.size_bytes
        named = NamedArtifact(
            _short(artifact.name),
            _short(artifact.type),
            _short(artifact.digest),
            tuple(_short(alias) for alias in artifact.aliases),
            entries,
            size,
            _short(artifact.manifest_file_path),
        )
        text_bytes = len(named.name) + len(named.type) + sum(map(len, named.aliases))
        if self._room("artifacts", len(self.artifacts), text_bytes):
            self.artifacts.append(named)

    def _take_alert(self, record: Record) -> None:
        if len(self.alert_times_s) < 1000:
            self.alert_times_s.append(self.clock_s)

    def _take_time(self, record: Record) -> None:
        for each in fields(record.payload, *content(record)):
            if each.number == 2:
                self.clock_s = max(self.clock_s, _timestamp(record.payload, each))

    def _keep(self, name: str, table: dict[str, _V], key: str, value: _V) -> None:
        if key in table or self._room(name, len(table), len(key)):
            table[key] = value

    def _room(self, name: str, listed: int, text_bytes: int) -> bool:
        """Whether another entry may be listed; lists share one limit on their texts."""
        if listed >= _MAX_LISTED or self.text_bytes + text_bytes > _MAX_LISTED_BYTES:
            self.clipped.add(name)
            return False
        self.text_bytes += text_bytes
        return True

    def conclude(self, reader: LogReader) -> LogFacts:
        for name, tree in (("config", self.config), ("summary", self.summary)):
            tree.apply()
            if tree.clipped:
                self.clipped.add(name)
        texts = {name: self.run.get(number, "") for number, name in _RUN_TEXTS.items()}
        return LogFacts(
            ending=reader.ending,
            good_bytes=reader.good_bytes,
            records=sum(self.kinds),
            malformed_records=self.malformed + self.config.malformed + self.summary.malformed,
            records_by_kind=_by_kind(self.kinds),
            num_gaps=tuple(reader.num_gaps),
            missing_records=reader.missing_records,
            damage=tuple(reader.damage),
            damaged_bytes=reader.damaged_bytes,
            clipped=frozenset(self.clipped),
            tags=tuple(self.tags),
            run_id=texts["run_id"],
            entity=texts["entity"],
            project=texts["project"],
            display_name=texts["display_name"],
            group=texts["group"],
            job_type=texts["job_type"],
            notes=texts["notes"],
            sweep_id=texts["sweep_id"],
            host=texts["host"] or self.host,
            start_time_s=self.start_time_s,
            starting_step=self.starting_step,
            resumed=self.resumed,
            resume=self.resume,
            wandb_version=self.wandb_version,
            python_version=self.python_version,
            config=self.config.tree(),
            summary=self.summary.tree(),
            rows=self.rows,
            first_step=self.first_step,
            last_step=self.last_step,
            steps_increase=self.steps_increase,
            exit_code=self.exit_code,
            exit_not_complete=self.exit_not_complete,
            runtime_s=self.runtime_s,
            preempting=self.kinds[RecordKind.PREEMPTING] > 0,
            files=tuple(self.files.values()),
            artifacts=tuple(self.artifacts),
            metrics=tuple(self.metrics.values()),
            alerts=self.kinds[RecordKind.ALERT],
            alert_times_s=tuple(self.alert_times_s),
            console_lines=self.kinds[RecordKind.OUTPUT_RAW] + self.kinds[RecordKind.OUTPUT],
            stats=self.kinds[RecordKind.STATS],
        )


_TAKERS: dict[int, Callable[[FactsCollector, Record], None]] = {
    RecordKind.HISTORY: FactsCollector._take_history,
    RecordKind.SUMMARY: FactsCollector._take_summary,
    RecordKind.CONFIG: FactsCollector._take_config,
    RecordKind.RUN: FactsCollector._take_run,
    RecordKind.TELEMETRY: FactsCollector._take_telemetry,
    RecordKind.ENVIRONMENT: FactsCollector._take_environment,
    RecordKind.EXIT: FactsCollector._take_exit,
    RecordKind.FILES: FactsCollector._take_files,
    RecordKind.METRIC: FactsCollector._take_metric,
    RecordKind.ARTIFACT: FactsCollector._take_artifact,
    RecordKind.ALERT: FactsCollector._take_alert,
    RecordKind.STATS: FactsCollector._take_time,
    RecordKind.OUTPUT_RAW: FactsCollector._take_time,
}
_TAKE = [_TAKERS.get(kind) for kind in range(_KNOWN_KINDS)] + [None]


def _by_kind(counts: list[int]) -> dict[int, int]:
    found = {kind: count for kind, count in enumerate(counts[:_UNKNOWN_KIND]) if count}
    return {**found, _UNKNOWN_KIND: counts[_UNKNOWN_KIND]} if counts[_UNKNOWN_KIND] else found


def _read_file(buf: bytes, start: int, end: int) -> NamedFile:
    path = ""
    policy = kind = 0
    for each in fields(buf, start, end):
        if each.number == 1:
            path = _short(text(buf, each))
        elif each.number == 2:
            policy = integer(buf, each)
        elif each.number == 3:
            kind = integer(buf, each)
    return NamedFile(path, _name(_POLICIES, policy), _name(_FILE_TYPES, kind))


def _read_metric(record: Record) -> DefinedMetric:
    buf = record.payload
    texts = {1: "", 2: "", 4: ""}
    summaries: tuple[str, ...] = ()
    hidden = False
    goal = 0
    for each in fields(buf, *content(record)):
        if each.number in texts:
            texts[each.number] = _short(text(buf, each))
        elif each.number == 6:
            hidden = 2 in _flags(buf, require_message(each))
        elif each.number == 7:
            set_flags = _flags(buf, require_message(each))
            summaries = tuple(name for number, name in _SUMMARIES.items() if number in set_flags)
        elif each.number == 8:
            goal = integer(buf, each)
    return DefinedMetric(texts[1] or texts[2], texts[4], summaries, hidden, _name(_GOALS, goal))


def _flags(buf: bytes, message: Field) -> set[int]:
    """The numbers of the known boolean fields that are set."""
    return {
        each.number
        for each in fields(buf, message.start, message.end)
        if each.number in _SUMMARIES and integer(buf, each)
    }


def _timestamp(buf: bytes, message: Field) -> float:
    require_message(message)
    parts = {1: 0, 2: 0}
    for each in fields(buf, message.start, message.end):
        if each.number in parts:
            parts[each.number] = integer(buf, each)
    return parts[1] + parts[2] / 1e9


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _short(value: str) -> str:
    return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT]
