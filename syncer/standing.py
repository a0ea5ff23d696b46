"""How a fragment stands on its server: which rows, files, artifacts, config and summary are there, and which are not.

The read-back of delivery, before and after a push. Asks the server, reads the sealed bytes, decides nothing.
"""

from __future__ import annotations

import base64
import glob
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wandb_spool.spool.capture import open_below
from wandb_spool.spool.edits import Edit, load_edit
from wandb_spool.spool.entry import Entry, Target
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.layout import safe_relative
from wandb_spool.spool.log import LogFacts, Row, as_nulls, canonical_text, facts, rows, value_digest
from wandb_spool.spool.manifest import Manifest, SealedFile, read_manifest

from .authors import author, is_foreign, private_log
from .compare import Comparison, FragmentRows, LoggedRow, StepDigest, compare, cuts
from .failures import DeliveryError, Failure
from .server import RemoteFile, RemoteRun, Server

_LISTED = 8
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Sealed:
    """A fragment of the run with its manifest."""

    entry: Entry
    manifest: Manifest
    digest: str
    """SHA-256 of the manifest as it is now."""
    log: Path | None = None
    """What to read as its log: of somebody else's launch a private copy, compared with the manifest."""
    aside: bool = False
    """Nobody knows whether it will ever be sent: what the server has of it counts, and it supersedes nothing."""


@dataclass(frozen=True)
class Chain:
    """The fragments of one run in their order."""

    sealed: tuple[Sealed, ...]
    gone: tuple[tuple[int, int], ...] = ()
    """First and last step of delivered fragments whose rows can't be read here any more (pruned, mostly)."""
    gone_behind: int = 0
    """How many of the fragments come before the last one that was pruned here."""

    def newest_after(self, index: int) -> Sealed | None:
        """The newest fragment behind this one that is on the server and still here."""
        return next((later for later in reversed(self.sealed[index + 1 :]) if later.entry.receipt), None)

    def is_newest(self, index: int) -> bool:
        """Whether no later fragment of the run is on the server."""
        return self.newest_after(index) is None and index >= self.gone_behind

    def index_of(self, entry: Entry) -> int:
        return next(index for index, sealed in enumerate(self.sealed) if sealed.entry.name == entry.name)

    @property
    def exit_code(self) -> int:
        """With which code the run ended: that of its last fragment that tells one."""
        known = (sealed.manifest.exit_code for sealed in reversed(self.sealed))
        return next((code for code in known if code is not None), 0)


@dataclass(frozen=True)
class Evidence:
    """What of a fragment is compared: made once per attempt from the sealed bytes, checked against the manifest."""

    facts: LogFacts
    files: Mapping[str, SealedFile]
    """Files that a push uploads, by their name on the server."""
    md5: Mapping[str, str]
    """Base64 of the MD5 of each of them."""
    lost_files: tuple[str, ...]
    """Named in the log, not in the manifest: they were gone before the seal."""
    lost_artifacts: frozenset[str]
    """Digests of artifacts of which bytes were gone before the seal."""
    edit: Edit = field(default_factory=Edit)
    """What a person changed of the run before its delivery."""
    settled: LogFacts | None = None
    """Of the newest fragment that is on the server, where that is a later one: its config and summary stand."""
    author: str = ""
    """Whose launch it is, by the file system."""


@dataclass(frozen=True)
class Standing:
    """What the server holds of one fragment."""

    run: RemoteRun | None
    level: str  # rows, counts
    comparison: Comparison
    index: int
    missing_files: tuple[str, ...] = ()
    present_files: frozenset[str] = frozenset()
    superseded_files: frozenset[str] = frozenset()
    """A later fragment that is on the server has files of these names: theirs stand there."""
    unproven_files: int = 0
    missing_artifacts: tuple[str, ...] = ()
    missing_config: tuple[str, ...] = ()
    missing_summary: tuple[str, ...] = ()
    missing_attributes: tuple[str, ...] = ()
    undone: int = 0
    """Rows of fragments that were delivered before and are gone from the server."""

    @property
    def rows(self) -> FragmentRows:
        return self.comparison.fragments[self.index]

    @property
    def complete(self) -> bool:
        """Whether everything that the fragment owes is on the server."""
        return self.run is not None and self.rows.complete and not self._missing_parts()

    def _missing_parts(self) -> tuple[str, ...]:
        return (
            self.missing_files
            + self.missing_artifacts
            + self.missing_config
            + self.missing_summary
            + self.missing_attributes
        )

    def missing(self) -> str:
        """What is missing, in one phrase."""
        if self.run is None:
            return "the server has no such run"
        parts: list[str] = []
        if self.rows.missing:
            steps = ", ".join(str(step) for step in self.comparison.missing[:_LISTED])
            parts.append(f"{self.rows.missing} of {self.rows.total} rows (steps {steps}, …)")
        if self.rows.conflicting:
            steps = ", ".join(str(step) for step in self.comparison.conflicts[:_LISTED])
            parts.append(f"{self.rows.conflicting} rows stand there with other values (steps {steps}, …)")
        if self.undone:
            parts.append(f"{self.undone} rows of fragments that were delivered before")
        for name, values in (
            ("files", self.missing_files),
            ("artifacts", self.missing_artifacts),
            ("config keys", self.missing_config),
            ("summary keys", self.missing_summary),
            ("edited values", self.missing_attributes),
        ):
            if values:
                parts.append(f"{name} {', '.join(values[:_LISTED])}{', …' if len(values) > _LISTED else ''}")
        return "; ".join(parts)


def settle(evidence: Evidence, chain: Chain, index: int) -> Evidence:
    """The evidence with what a later fragment, which is on the server, says of the run. Raises OSError."""
    newest = chain.newest_after(index)
    if newest is None or newest.log is None:
        return evidence
    return replace(evidence, settled=facts(newest.log, salvage=True))


def examine(root: Path, sealed: Sealed, tick: Callable[[], None] = lambda: None) -> Evidence:
    """Check every sealed file against the manifest and gather what a read-back compares.

    Raises DeliveryError: *tampered* for a file that differs, *unsafe* for one that became a link or a device,
    *vanished* when the run directory is gone.
    """
    launch = sealed.entry.launch_directory(root)
    if not sealed.entry.run_directory(root).is_dir():
        raise DeliveryError(Failure.VANISHED, f"the run directory {sealed.entry.path} is gone")
    md5_by_path = {item.path: _check(launch, item, tick) for item in sealed.manifest.files if item.kind != "debug"}
    if sealed.log is None:
        raise DeliveryError(Failure.DAMAGED, "the manifest names no log, or it can't be read")
    found = facts(sealed.log, salvage=True)
    prefix = PurePosixPath("wandb") / sealed.entry.fragment / "files"
    by_name = {
        PurePosixPath(item.path).relative_to(prefix).as_posix(): item
        for item in sealed.manifest.files
        if item.kind == "file"
    }
    named = _named_files(found)
    files = {name: by_name[name] for name in named if name in by_name}
    return Evidence(
        facts=found,
        files=files,
        md5={name: md5_by_path[item.path] for name, item in files.items()},
        lost_files=tuple(name for name in named if name not in by_name and not glob.has_magic(name)),
        lost_artifacts=frozenset(str(item["digest"]) for item in sealed.manifest.artifacts if item.get("incomplete")),
        edit=_edit(root, sealed.entry),
        author=author(launch),
    )


def check_log(root: Path, sealed: Sealed, tick: Callable[[], None] = lambda: None) -> None:
    """Whether a log is what was sealed, before its rows are sent with another fragment. Raises DeliveryError."""
    launch = sealed.entry.launch_directory(root)
    if sealed.log is None or sealed.log != launch / str(sealed.manifest.log_path):
        return  # a private copy was compared while it was made
    for item in sealed.manifest.files:
        if item.kind == "log":
            _check(launch, item, tick)


def _edit(root: Path, entry: Entry) -> Edit:
    try:
        return load_edit(root, entry)
    except SpoolError as error:
        raise DeliveryError(Failure.DAMAGED, str(error)) from error


def _check(launch: Path, item: SealedFile, tick: Callable[[], None]) -> str:
    """Compare one file with its manifest; returns the base64 of its MD5 (what W&B tells of a file)."""
    try:
        fd = open_below(launch, item.path)
    except FileNotFoundError as error:
        raise DeliveryError(Failure.TAMPERED, f"{item.path} is gone since the seal") from error
    except (ValueError, OSError) as error:
        if isinstance(error, (ValueError, NotADirectoryError)):
            raise DeliveryError(Failure.UNSAFE, f"{item.path} is no regular file since the seal") from error
        raise DeliveryError(Failure.INTERRUPTED, f"{item.path} can't be read: {error}") from error
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(fd, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            tick()
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    if size != item.size_bytes:
        what = f"{size} bytes, sealed {item.size_bytes}"
    elif sha256.hexdigest() != item.sha256:
        what = f"its content was changed, its {size} bytes are as many as before"
    else:
        return base64.b64encode(md5.digest()).decode()
    raise DeliveryError(Failure.TAMPERED, f"{item.path} differs from its manifest ({what})")


def _named_files(found: LogFacts) -> list[str]:
    """Files that the log tells `wandb sync` to upload. wandb escapes glob characters of the names that it saves."""
    names: list[str] = []
    for named in found.files:
        name = named.path
        for character in "[?*":
            name = name.replace(f"[{character}]", character)
        if safe_relative(name) is None:
            raise DeliveryError(Failure.UNSAFE, f"the log names the file {name!r}, which leads out of the run")
        names.append(name)
    return names


def look(
    server: Server,
    target: Target,
    chain: Chain,
    index: int,
    evidence: Evidence,
    root: Path,
    tick: Callable[[], None] = lambda: None,
) -> Standing:
    """Ask the server what it holds of the fragment at `index` of its chain.

    Those before it are on the server or were skipped, those after only matter for what they supersede. Raises
    DeliveryError when the server can't be asked.
    """
    where = (target.entity, target.project, target.run_id)
    run = server.run(*where)
    superseded = _superseded_files(chain, index)
    files_here = {name for name in evidence.files if name not in superseded}
    if run is None:
        return Standing(
            None, "rows", _compare(None, where, chain, root, tick), index, superseded_files=frozenset(superseded)
        )
    try:
        comparison, level = _compare(server, where, chain, root, tick), "rows"
    except DeliveryError as error:
        if error.failure is not Failure.UNREADABLE or run.history_line_count is None:
            raise
        comparison, level = _by_counts(run.history_line_count, where, chain, index, root), "counts"
    files = {item.name: item for item in server.files(*where)} if files_here else {}
    present = {name for name in files_here if _same_file(evidence, name, files.get(name))}
    told = evidence.facts if chain.is_newest(index) else evidence.settled
    return Standing(
        run=run,
        level=level,
        comparison=comparison,
        index=index,
        missing_files=tuple(sorted(files_here - present)),
        superseded_files=frozenset(superseded),
        present_files=frozenset(present),
        unproven_files=sum(1 for name in present if files[name].md5_base64 is None),
        missing_artifacts=tuple(_missing_artifacts(server, where, evidence)),
        missing_config=() if told is None else tuple(_missing_config(run, told)),
        missing_summary=() if told is None else tuple(_missing_summary(run, told)),
        missing_attributes=tuple(_missing_attributes(run, evidence)),
        undone=_undone(comparison, chain, index),
    )


def _undone(comparison: Comparison, chain: Chain, index: int) -> int:
    compared = enumerate(zip(comparison.fragments, chain.sealed, strict=True))
    return sum(rows.missing for other, (rows, sealed) in compared if sealed.entry.receipt and other != index)


def unread(chain: Chain, index: int, root: Path) -> Standing:
    """How a fragment stands on a server of which nothing is known."""
    where = ("", "", "")
    return Standing(None, "rows", _compare(None, where, chain, root), index)


def _superseded_files(chain: Chain, index: int) -> set[str]:
    """Names of the files that later fragments, which are on the server, have too."""
    names: set[str] = set()
    for later in chain.sealed[index + 1 :]:
        if later.entry.receipt:
            prefix = PurePosixPath("wandb") / later.entry.fragment / "files"
            kept = (PurePosixPath(item.path) for item in later.manifest.files if item.kind == "file")
            names.update(path.relative_to(prefix).as_posix() for path in kept)
    return names


def _compare(
    server: Server | None,
    where: tuple[str, str, str],
    chain: Chain,
    root: Path,
    tick: Callable[[], None] = lambda: None,
) -> Comparison:
    found = cuts([None if sealed.aside else sealed.manifest.first_step for sealed in chain.sealed])
    cut_from = [-1 if sealed.aside else cut for sealed, cut in zip(chain.sealed, found, strict=True)]
    streams = [_rows_of(sealed, root, tick) for sealed in chain.sealed]

    def fetch(first_step: int, end_step: int, limit: int) -> list[StepDigest]:
        assert server is not None
        return [step_digest(row) for row in server.history(*where, first_step, end_step, limit)]

    return compare(streams, cut_from, None if server is None else fetch, gone=chain.gone)


def _rows_of(sealed: Sealed, root: Path, tick: Callable[[], None]) -> Iterator[LoggedRow]:
    """The rows of a fragment in ascending order of steps; none when it was pruned."""
    if sealed.log is None or not sealed.log.is_file():
        return iter(())
    return _ascending(map(logged_row, _ticking(rows(sealed.log, salvage=True), tick)))


def logged_row(row: Row) -> LoggedRow:
    """A row of a log as it is compared."""
    told = as_nulls(row.values)
    return row.step, (row.digest,) if told is row.values else (row.digest, value_digest(told))


def _ticking(read: Iterator[Row], tick: Callable[[], None]) -> Iterator[Row]:
    for number, row in enumerate(read):
        if number % 500 == 0:
            tick()
        yield row


def _ascending(read: Iterator[LoggedRow]) -> Iterator[LoggedRow]:
    """wandb never writes a step below the one before; of a log that does, the last value of each step counts."""
    last: LoggedRow | None = None
    for row in read:
        if last is not None:
            if row[0] < last[0]:
                kept = dict((last, row, *read))
                yield from sorted(kept.items())
                return
            if row[0] != last[0]:
                yield last
        last = row
    if last is not None:
        yield last


def step_digest(row: Mapping[str, Any]) -> StepDigest:
    """A row of a server's history as it is compared. Raises DeliveryError for one without a step."""
    step = row.get("_step")
    if not isinstance(step, (int, float)):
        raise DeliveryError(Failure.UNREADABLE, "a row of the server's history has no _step")
    return int(step), value_digest(row)


def _by_counts(line_count: int, where: tuple[str, str, str], chain: Chain, index: int, root: Path) -> Comparison:
    """The weaker judgement for a server whose history can't be read: all lines are there, or none."""
    comparison = _compare(None, where, chain, root)
    expected = sum(rows.missing for rows in comparison.fragments[: index + 1])
    before = expected - comparison.fragments[index].missing
    if line_count not in (expected, before) and line_count < expected:
        raise DeliveryError(
            Failure.UNREADABLE, f"the server has {line_count} of {expected} lines and doesn't tell which"
        )
    comparison.server_rows = line_count
    if line_count >= expected:
        own = comparison.fragments[index]
        comparison.fragments[index] = FragmentRows(total=own.total, present=own.missing, superseded=own.superseded)
    return comparison


def _same_file(evidence: Evidence, name: str, remote: RemoteFile | None) -> bool:
    if remote is None or remote.size_bytes != evidence.files[name].size_bytes:
        return False
    return remote.md5_base64 is None or remote.md5_base64.rstrip("=") == evidence.md5[name].rstrip("=")


def _missing_artifacts(server: Server, where: tuple[str, str, str], evidence: Evidence) -> Iterator[str]:
    wanted = [item for item in evidence.facts.artifacts if item.digest and item.digest not in evidence.lost_artifacts]
    if not wanted:
        return
    committed = {item.digest for item in server.artifacts(*where) if item.state.upper() == "COMMITTED"}
    for item in wanted:
        if item.digest not in committed:
            yield f"{item.name} ({item.type})"


def _missing_config(run: RemoteRun, found: LogFacts) -> Iterator[str]:
    """Config keys that the server lacks or holds with another value. A server that tells no config proves nothing."""
    if run.config is None or "config" in found.clipped:
        return
    for key, value in found.config.items():
        if key == "_wandb":
            continue
        held = run.config.get(key)
        told = held.get("value") if isinstance(held, dict) and "value" in held else held
        if not _same_value(told, value):
            yield key


def _missing_summary(run: RemoteRun, found: LogFacts) -> Iterator[str]:
    """The same for the plain values of the summary (numbers, texts, truth values)."""
    if run.summary is None or "summary" in found.clipped:
        return
    for key, value in found.summary.items():
        if key.startswith("_") or not isinstance(value, (str, int, float, bool)):
            continue
        if not _same_value(run.summary.get(key), value):
            yield key


def _same_value(told: object, logged: object) -> bool:
    """Whether a server tells what was logged; where its JSON has no NaN, null."""
    text = canonical_text({"v": told})
    return text == canonical_text({"v": logged}) or text == canonical_text(as_nulls({"v": logged}))


_REMOTE_NAMES = {"display_name": "displayName", "job_type": "jobType"}


def _missing_attributes(run: RemoteRun, evidence: Evidence) -> Iterator[str]:
    """What a person changed of the run and the server doesn't show. A server that tells no name proves nothing."""
    if run.display_name is None:
        return
    for name, wanted in evidence.edit.attributes(evidence.facts.tags).items():
        held = run.attributes.get(_REMOTE_NAMES.get(name, name))
        same = _tagged(held, wanted, evidence.edit) if name == "tags" else (held or "") == wanted
        if not same:
            yield name


def _tagged(held: object, wanted: Sequence[str], edit: Edit) -> bool:
    """Whether the tags are there, and none that was taken away. What else a person tagged on the server stands."""
    there = set(held) if isinstance(held, list) else set()
    return set(wanted) <= there and not there & set(edit.remove_tags)


def kept_attributes(run: RemoteRun, chain: Chain, index: int, found: LogFacts) -> dict[str, Any]:
    """What a person changed on the server of a run that was delivered before: the next fragment must not undo it.

    A text that this fragment logged as its predecessor did is no news: the server's stands. Tags add up.
    """
    before = next((item for item in reversed(chain.sealed[:index]) if item.entry.receipt), None)
    if before is None or run.display_name is None:
        return {}
    manifest = before.manifest
    logged = {"display_name": manifest.name, "group": manifest.group, "job_type": manifest.job_type}
    kept = {name: text for name, text in logged.items() if text and getattr(found, name) == text}
    there = {name: run.attributes.get(_REMOTE_NAMES.get(name, name)) for name in (*kept, "notes")}
    texts = {name: text for name, text in there.items() if isinstance(text, str) and text}
    tags = run.attributes.get("tags")
    return {**texts, "tags": [*tags, *(tag for tag in found.tags if tag not in tags)]} if tags else dict(texts)


def load_chain(
    root: Path,
    entries: Sequence[Entry],
    private: Path,
    tick: Callable[[], None] = lambda: None,
    *,
    aside: frozenset[str] = frozenset(),
) -> Chain:
    """The fragments of a run that have a manifest, in the given order. One that is damaged is left out.

    Copies of logs that belong to somebody else come into the directory `private`.
    """
    chain: list[Sealed] = []
    gone: list[tuple[int, int]] = []
    gone_behind = 0
    for entry in entries:
        try:
            manifest, digest = read_manifest(entry.run_directory(root))
            log = _log(root, entry, manifest, private, tick)
            chain.append(Sealed(entry, manifest, digest, log, entry.name in aside))
            gone += _steps_of(entry) if log is None else ()
        except FileNotFoundError:
            gone_behind = len(chain) if entry.receipt else gone_behind
            gone += _steps_of(entry)
        except (OSError, SpoolError):
            continue
    return Chain(tuple(chain), tuple(gone), gone_behind)


def _steps_of(entry: Entry) -> Iterator[tuple[int, int]]:
    """Which steps were read back of a delivered fragment whose rows can't be read here any more."""
    receipt = entry.receipt or {}
    first, last = receipt.get("first_step"), receipt.get("last_step")
    if isinstance(first, int) and isinstance(last, int):
        yield first, last


def _log(root: Path, entry: Entry, manifest: Manifest, private: Path, tick: Callable[[], None]) -> Path | None:
    """None for a log that can't be read as it was sealed; of the fragment that is delivered, `examine` tells why."""
    launch = entry.launch_directory(root)
    if manifest.log_path is None or safe_relative(manifest.log_path) is None:
        return None
    if not is_foreign(launch):
        return launch / manifest.log_path
    try:
        return private_log(launch, manifest, private, tick)
    except DeliveryError:
        return None
