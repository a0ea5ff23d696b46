"""The push view: a scratch copy of a fragment, the only thing that `wandb sync` ever sees.

It bears the run directory's name, links to the sealed files where that is safe, and a `.syncstate` written by us, so
that the server never decides a step (the client lifts every step below the starting step that it gets from there).
The log is the sealed one, or a rewrite of it: without the rows that the server has or that are superseded, past damage,
with artifact paths as they are here, with the target's entity, project and id. The spool itself is never written.
"""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from wandb_spool.spool.entry import Entry, Target
from wandb_spool.spool.log import (
    EndingKind,
    LogReader,
    LogWriter,
    Record,
    RecordKind,
    Transform,
    chain,
    drop_kinds,
    keep_steps,
    move_artifacts,
    override_run,
    read_artifact,
    read_step_of,
    renumber,
    rewrite,
    rewrite_manifest_file,
    set_config,
    set_exit_code,
    set_resume,
    summary_record,
    without_summary,
)
from wandb_spool.spool.manifest import Manifest

from .authors import is_foreign, private_copy
from .compare import FragmentRows, Steps
from .failures import DeliveryError, Failure

SYNC_STATE = {"starting_step": 0, "starting_runtime": 0}
"""Seeded before every push: steps and runtimes stand as they were logged."""


@dataclass(frozen=True)
class View:
    """A push view that is ready for `wandb sync`."""

    directory: Path
    log: Path
    rewritten: bool
    alerts_dropped: int


@dataclass(frozen=True)
class OtherRows:
    """Rows of another fragment of the run that have to be on the server after the push."""

    log: Path
    steps: tuple[Steps, ...]
    """Of them those at these steps."""

    def holds(self, step: int) -> bool:
        return any(step in steps for steps in self.steps)


@dataclass(frozen=True)
class Settled:
    """What a run says of itself where a later fragment than this one is on the server: a push must not undo that."""

    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    attributes: Mapping[str, Any]
    """By the names of `override_run`."""
    exit_code: int
    printed: bool = True
    """Whether its program printed something: then the run's `output.log` is that, and nothing else is sent for it."""
    environment: Record | None = None
    """What its log says of the machine and the program."""


@dataclass(frozen=True)
class Content:
    """What a push of one fragment should carry."""

    rows: FragmentRows
    run_exists: bool
    settled: Settled | None
    """None for the newest fragment."""
    send_alerts: bool
    whole: bool = False
    """For a server that does not count the lines that it holds: then a push writes from the first line on, and has to
    carry all rows of the run, also those of the other fragments."""
    others: tuple[OtherRows, ...] = ()
    """Rows of other fragments that have to be sent too."""
    unwanted_files: frozenset[str] = field(default_factory=frozenset)
    """Files (below `files/`) that the server has already."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What a person changed of the run, by the names of `override_run`."""


def build(
    root: Path,
    entry: Entry,
    manifest: Manifest,
    target: Target,
    content: Content,
    scratch: Path,
    tick: Callable[[], None] = lambda: None,
) -> View:
    """Make the push view of a fragment in the empty directory `scratch`.

    `root` is the spool's. Raises DeliveryError for what must not be followed, OSError when the scratch disk is full.
    """
    launch = entry.launch_directory(root)
    foreign = is_foreign(launch)
    if foreign:
        launch = private_copy(launch, manifest, scratch / "copy", tick)
    directory = scratch / _offline_name(manifest.fragment)
    directory.mkdir(parents=True)
    sealed_log = next((item for item in manifest.files if item.kind == "log"), None)
    if sealed_log is None:
        raise DeliveryError(Failure.DAMAGED, "the manifest lists no log")
    source = launch / sealed_log.path
    log = directory / f"run-{target.run_id}.wandb"
    _link_files(launch, entry, manifest, directory, content.unwanted_files)
    transforms = _transforms(launch, manifest, target, content, scratch, foreign=foreign)
    rewritten = (
        bool(transforms)
        or bool(content.others)
        or manifest.log_ending not in (EndingKind.FINISHED.value, EndingKind.CLEAN.value)
    )
    if content.others or content.settled is not None:
        _write_with_others(source, log, chain(_ticking(tick), *transforms), content)
    elif rewritten:
        rewrite(source, log, chain(_ticking(tick), *transforms), salvage=True)
    else:
        log.symlink_to(source)
    Path(f"{log}.syncstate").write_text(json.dumps(SYNC_STATE))
    return View(directory, log, rewritten, 0 if content.send_alerts else manifest.alerts)


def _ticking(tick: Callable[[], None]) -> Transform:
    def apply(record: Record) -> Record:
        tick()
        return record

    return apply


def _offline_name(fragment: str) -> str:
    """`wandb sync` skips, silently, what is not called `offline-run-…`."""
    return fragment if fragment.startswith("offline-") else f"offline-{fragment}"


def _link_files(launch: Path, entry: Entry, manifest: Manifest, directory: Path, unwanted: frozenset[str]) -> None:
    prefix = PurePosixPath("wandb") / entry.fragment / "files"
    (directory / "files").mkdir()
    for item in manifest.files:
        if item.kind != "file":
            continue
        name = PurePosixPath(item.path).relative_to(prefix)
        if name.as_posix() in unwanted:
            continue
        link = directory / "files" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(launch / item.path)


def _transforms(
    launch: Path, manifest: Manifest, target: Target, content: Content, scratch: Path, *, foreign: bool
) -> list[Transform]:
    transforms: list[Transform] = []
    rows = content.rows
    whole = content.whole
    if whole and rows.missing + rows.present != rows.total:
        transforms.append(keep_steps(lambda step: step in rows.missing_steps or step in rows.present_steps))
    if not whole and rows.missing != rows.total:
        transforms.append(keep_steps(rows.missing_steps.__contains__))
    if content.run_exists:
        transforms.append(set_resume(not whole))
    if content.settled is not None:
        transforms += _settling(content.settled)
    elif manifest.exit_known_from == "process" and manifest.exit_code is not None:
        transforms.append(set_exit_code(manifest.exit_code))  # the log's record says 0, or nothing
    if not content.send_alerts and manifest.alerts:
        transforms.append(drop_kinds(RecordKind.ALERT))
    if (manifest.entity, manifest.project, manifest.run_id) != (target.entity, target.project, target.run_id):
        transforms.append(override_run(entity=target.entity, project=target.project, run_id=target.run_id))
    if content.attributes:
        transforms.append(override_run(**content.attributes))
    incomplete = frozenset(str(item.get("digest")) for item in manifest.artifacts if item.get("incomplete"))
    if incomplete:
        transforms.append(_without_artifacts(incomplete))
    moved = _moved(launch, manifest, foreign=foreign)
    if moved is not None:
        transforms.append(_artifact_paths(moved, scratch))
    return transforms


def _settling(settled: Settled) -> list[Transform]:
    def environment(record: Record) -> Record | None:
        return settled.environment if record.kind == RecordKind.ENVIRONMENT else record

    return [
        environment,
        *([drop_kinds(RecordKind.OUTPUT, RecordKind.OUTPUT_RAW)] if settled.printed else []),
        set_config(settled.config),
        without_summary(),
        set_exit_code(settled.exit_code),
        override_run(**settled.attributes),
    ]


def _write_with_others(source: Path, target: Path, transform: Transform, content: Content) -> None:
    """The fragment's log with the rows of other fragments among its own: the client takes no step that goes back."""
    number = renumber()
    added = _Added(content)
    with LogReader(source, salvage=True) as reader, LogWriter(target) as writer:
        for record in reader:
            changed = transform(record)
            for more in added.before(record, changed):
                _write_numbered(writer, more, number)
            if changed is not None:
                _write_numbered(writer, changed, number)
        for more in added.rest():
            _write_numbered(writer, more, number)


class _Added:
    """What is added to a log: the rows of other fragments in their places, and the run's summary behind all rows."""

    def __init__(self, content: Content) -> None:
        self._rows = heapq.merge(*map(_history_records, content.others), key=itemgetter(0))
        self._waiting = next(self._rows, None)
        self._last = [] if content.settled is None else [summary_record(content.settled.summary)]

    def before(self, record: Record, changed: Record | None) -> Iterator[Record]:
        """Before a row those of lower steps, before the end all that is left, before anything else nothing."""
        if record.kind == RecordKind.EXIT:
            yield from self.rest()
        elif record.kind == RecordKind.HISTORY and changed is not None:
            step = read_step_of(record)
            yield from () if step is None else self._below(step)

    def rest(self) -> Iterator[Record]:
        yield from self._below(math.inf)
        while self._last:
            yield self._last.pop()

    def _below(self, step: float) -> Iterator[Record]:
        while self._waiting is not None and self._waiting[0] < step:
            yield self._waiting[1]
            self._waiting = next(self._rows, None)


def _history_records(other: OtherRows) -> Iterator[tuple[int, Record]]:
    with LogReader(other.log, salvage=True) as reader:
        for record in reader:
            step = read_step_of(record) if record.kind == RecordKind.HISTORY else None
            if step is not None and other.holds(step):
                yield step, record


def _write_numbered(writer: LogWriter, record: Record, number: Transform) -> None:
    numbered = number(record)
    if numbered is not None:
        writer.write(numbered)


def _without_artifacts(digests: frozenset[str]) -> Transform:
    """An artifact of which bytes were gone before the seal can't arrive: the receipt tells it, nothing is sent."""

    def apply(record: Record) -> Record | None:
        if record.kind != RecordKind.ARTIFACT:
            return record
        artifact = read_artifact(record)
        return None if artifact is not None and artifact.digest in digests else record

    return apply


def _moved(launch: Path, manifest: Manifest, *, foreign: bool) -> dict[str, str] | None:
    """Where the artifact bytes lie now; None where the log names nothing else than what is there."""
    staged = (item for item in manifest.files if item.kind == "staged" and item.source)
    now = {str(item.source): str(launch / item.path) for item in staged}
    moved = any(source != place for source, place in now.items())
    unlisted = any(item.get("incomplete") for item in manifest.artifacts)
    return now if moved or unlisted or foreign else None


def _artifact_paths(moved: dict[str, str], scratch: Path) -> Transform:
    """A path that the manifest doesn't list leads nowhere: what may stand there now is not what was logged."""

    def place(path: str) -> str:
        return moved.get(path, str(scratch / "not-sealed")) if path else path

    def manifest_place(path: str) -> str:
        if path not in moved:
            return place(path)
        rewritten = scratch / f"manifest-{time.monotonic_ns()}.jsonl.gz"
        rewrite_manifest_file(Path(place(path)), rewritten, place)
        return str(rewritten)

    return move_artifacts(place, manifest_place)
