"""The seal: make a fragment self-contained and immutable, write its manifest, let its entry go.

Order, so that a kill at any point leaves a fragment that can be sealed again: links become copies → staged artifact
bytes that lie elsewhere come into the launch → every file is fsynced and hashed → manifest (durable, last) → the entry
moves. Sealing twice is harmless. The training program is gone or finished when this runs; nothing here can hurt it.

Fails with `StorageError` (no room, no permission): then the entry stays *open* with the reason, for `recover`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import alive, clock, durable
from .capture import (
    LINK_REPLACED,
    Change,
    copy_descriptor,
    detach_links,
    digest_file,
    open_regular,
    printable,
    regular_files,
)
from .entry import Entry
from .errors import SpoolError, StorageError
from .identity import current, holders, host_name
from .launches import Launch
from .layout import LaunchPaths, log_path, safe_relative
from .lineage import predecessor_of
from .log import Artifact, EndingKind, LogFacts, ManifestFileError, artifacts, facts, read_manifest_file
from .manifest import MANIFEST_NAME, Manifest, SealedFile, read_manifest, write_manifest
from .queue import Place, Spool
from .staging import Stage, in_launch, losses, settle
from .states import State

GENERATED = frozenset({"config.yaml", "wandb-summary.json", "wandb-metadata.json", "output.log"})
"""What `wandb sync` writes into `files/` itself: never listed, so that a person's own sync is not tampering."""

SEALED_ELSEWHERE = "sealed"
"""Directory in `data/` for artifact bytes that the log names outside the launch directory."""


def wait_for_writers(log: Path, timeout_s: float, *, poll_s: float = 0.02) -> bool:
    """Wait until no local process holds the log open (wandb-core outlives its trainer by 50-90 ms). False: time-out."""
    deadline = time.monotonic() + timeout_s
    while holders(log):
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def seal_fragment(
    spool: Spool,
    place: Place,
    *,
    process_exit_code: int | None = None,
    hold: bool = False,
    provisional: bool = False,
    follow_links: bool = True,
    hook: bool | None = None,
    now_s: float | None = None,
) -> Place:
    """Seal the fragment of an open entry and move the entry to incoming, held or void.

    `provisional`: the seal is made where the writer can't be seen for certain. `follow_links` is false when the seal is
    not made on the writer's host. `hook` tells whether the start-up hook was in the program (default: `alive` exists).
    Raises LostRaceError when somebody else seals it, DamagedError for an entry that can't be read, and StorageError,
    after recording it as the reason in the entry. After all of them the entry is *open* again.
    """
    now = time.time() if now_s is None else now_s
    owned = spool.claim(place)
    entry = _read_claimed(spool, owned)
    try:
        manifest, digest = _seal(
            spool,
            entry,
            process_exit_code=process_exit_code,
            provisional=provisional,
            follow_links=follow_links,
            hook=hook,
            now_s=now,
        )
    except VanishedError:
        return spool.move(owned, State.VOID, replace(entry, reason="vanished: the run directory is gone"), now_s=now)
    except (SpoolError, OSError, ValueError) as error:
        _leave_open(spool, owned, replace(entry, reason=f"unsealed: {error}", mend="`wandb-spool recover` tries again"))
        if isinstance(error, SpoolError):
            raise
        raise StorageError(f"can't be sealed: {error}", path=entry.run_directory(spool.root)) from error
    sealed = entry_of(entry, manifest, digest)
    if is_void(manifest):
        return spool.move(owned, State.VOID, replace(sealed, reason=_void_reason(manifest), mend=None), now_s=now)
    # Who made the entry or the launch asked for it: it must hold whoever seals.
    aside = entry.extra.get("hold")
    if isinstance(aside, dict):
        sealed = replace(sealed, reason=aside.get("reason"), mend=aside.get("mend"))
    held = hold or isinstance(aside, dict) or Launch.at(spool, spool.paths.launch(entry.launch)).holds
    return spool.move(owned, State.HELD if held else State.INCOMING, sealed, why="sealed", now_s=now)


class VanishedError(SpoolError):
    """The run directory is gone."""


def _read_claimed(spool: Spool, owned: Place) -> Entry:
    try:
        return spool.read(owned)
    except SpoolError:
        spool.release(owned, State.OPEN)
        raise


def _leave_open(spool: Spool, owned: Place, entry: Entry) -> None:
    try:
        spool.rewrite(owned, entry)
    except SpoolError:
        pass  # no room even for the reason; the entry itself is what matters
    spool.release(owned, State.OPEN)


def is_void(manifest: Manifest) -> bool:
    """Whether the fragment holds nothing that could be delivered."""
    return manifest.log_path is None or manifest.log_ending == EndingKind.VOID.value


def entry_of(entry: Entry, manifest: Manifest, digest: str) -> Entry:
    """The entry with what the manifest says (the log outranks what the hook saw)."""
    return replace(
        entry,
        predecessor=manifest.predecessor,
        run_id=manifest.run_id or entry.run_id,
        project=manifest.project,
        entity=manifest.entity,
        display_name=manifest.name or entry.display_name,
        base_url=manifest.base_url or entry.base_url,
        manifest_sha256=digest,
        rows=manifest.rows_kept,
        size_bytes=manifest.size_bytes,
        reason=None,
        mend=None,
        extra={**entry.extra, **({"provisional": True} if manifest.provisional else {})},
    )


def unsealed_growth(spool: Spool, entry: Entry) -> bool:
    """Whether the log is longer than its manifest says: a provisional seal was made while its writer still lived."""
    run_directory = entry.run_directory(spool.root)
    try:
        manifest, _ = read_manifest(run_directory)
        listed = {item.path: item.size_bytes for item in manifest.files if item.kind == "log"}
        return any((run_directory.parent.parent / path).stat().st_size > size for path, size in listed.items())
    except (OSError, SpoolError):
        return False


def reopen(spool: Spool, place: Place) -> Place:
    """Put a provisionally sealed fragment whose log grew back to *open*."""
    entry = spool.read(place)
    durable.remove(entry.run_directory(spool.root) / MANIFEST_NAME)
    return spool.move(place, State.OPEN, replace(entry, manifest_sha256=None), why="the log grew after the seal")


def _void_reason(manifest: Manifest) -> str:
    if manifest.log_path is None:
        return "void: no log"
    return f"void: the log holds no run ({manifest.log_good_bytes} bytes)"


def _seal(
    spool: Spool,
    entry: Entry,
    *,
    process_exit_code: int | None,
    provisional: bool,
    follow_links: bool,
    hook: bool | None,
    now_s: float,
) -> tuple[Manifest, str]:
    run_directory = entry.run_directory(spool.root)
    launch = LaunchPaths(entry.launch_directory(spool.root))
    owner = Launch.at(spool, launch.root)
    lost = losses(owner, entry.fragment)
    stage = Stage.of(owner)
    if stage is not None:
        settle(stage, entry.fragment)
    if not run_directory.is_dir():
        raise VanishedError("the run directory is gone", path=run_directory)
    _drop_debug_link(run_directory)
    if spool.group:
        share(spool, launch.root)
    changes = [*lost, *detach_links(run_directory, within=launch.root, follow_outside=follow_links)]
    log = log_path(run_directory)
    found = facts(log, salvage=True) if log is not None else None
    staged = _staged(log, owner, follow_links) if log is not None else _Staged()
    changes += staged.changes.values()
    life = alive.read(run_directory)
    hooked = life is not None if hook is None else hook
    files = [*_own_files(run_directory, launch, log, changes), *staged.files.values()]
    earlier = _earlier(run_directory, files)
    if earlier is not None:
        return earlier
    predecessor = entry.predecessor or _predecessor(spool, entry, found)
    manifest = Manifest(
        spool_id=spool.spool_id,
        launch=entry.launch,
        fragment=entry.fragment,
        run_id=(found.run_id or None) if found else None,
        entity=(found.entity or None) if found else None,
        project=(found.project or None) if found else None,
        name=(found.display_name or None) if found else None,
        group=(found.group or None) if found else None,
        job_type=(found.job_type or None) if found else None,
        predecessor=predecessor,
        started=entry.created or None,
        sealed=clock.iso(now_s),
        sealed_on=host_name(),
        provisional=provisional,
        writer=entry.writer,
        hook="present" if hooked else "absent",
        log_path=None if log is None else log.relative_to(launch.root).as_posix(),
        log_ending=found.ending.kind.value if found else EndingKind.VOID.value,
        log_good_bytes=found.good_bytes if found else 0,
        log_records=found.records if found else 0,
        log_damage=tuple((span.start, span.end) for span in found.damage) if found else (),
        rows_logged=alive.rows_logged(run_directory, life),
        rows_kept=found.rows if found else 0,
        calls_refused=life.refused if life else None,
        first_step=found.first_step if found else None,
        last_step=found.last_step if found else None,
        **_exit(found, life, process_exit_code),
        wandb_version=(found.wandb_version or None) if found else None,
        python_version=(found.python_version or None) if found else None,
        base_url=entry.base_url,
        overridden=tuple(str(item) for item in entry.extra.get("overridden") or ()),
        alerts=found.alerts if found else 0,
        files=tuple(files),
        artifacts=tuple(_artifact_summaries(found, staged.incomplete)) if found else (),
        changed=tuple(change.as_json() for change in changes if change.what != LINK_REPLACED),
    )
    return manifest, write_manifest(run_directory, manifest, mode=spool.file_mode)


def _earlier(run_directory: Path, files: list[SealedFile]) -> tuple[Manifest, str] | None:
    """The manifest of an earlier seal, if it still tells the truth: what it knows, nobody knows better later."""
    try:
        manifest, digest = read_manifest(run_directory)
    except (FileNotFoundError, SpoolError):
        return None
    return (manifest, digest) if set(manifest.files) == set(files) else None


def _predecessor(spool: Spool, entry: Entry, found: LogFacts | None) -> str | None:
    if found is None or not found.run_id:
        return None
    return predecessor_of(
        spool, replace(entry, run_id=found.run_id, project=found.project or None, entity=found.entity or None)
    )


def _exit(found: LogFacts | None, life: alive.Alive | None, process_exit_code: int | None) -> dict[str, Any]:
    """The exit: the log's record, else the process's own code, else unknown.

    A child process shares its parent's wandb-core. If the child dies, that core writes an exit record for it when the
    parent ends, with the parent's code: a record counts only if the run's own process ended the run. Before Python 3.12
    nobody tells a program at its end that it ends by `raise SystemExit(n)`; the record says 0, `alive` says `UNTOLD`.
    """
    told = found.exit_code if found is not None and (life is None or life.phase != "running") else None
    known = process_exit_code is not None
    if told == 0 and process_exit_code and life is not None and life.exit_code == alive.UNTOLD:
        told = None
    return {
        "exit_code": process_exit_code if told is None else told,
        "exit_known_from": "record" if told is not None else "process" if known else "unknown",
        "process_exit_code": process_exit_code,
    }


def share(spool: Spool, directory: Path) -> None:
    """Give what wandb wrote the modes of the spool, whatever the author's umask: else a group could not read it."""
    for base, _, files in os.walk(directory):
        for path, mode in ((base, spool.directory_mode), *((os.path.join(base, n), spool.file_mode) for n in files)):
            try:
                status = os.lstat(path)
                if path == base or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
                    os.chmod(path, mode)
            except OSError:
                continue  # somebody else's file, or gone: the seal tells what it can't read


def _drop_debug_link(run_directory: Path) -> None:
    """`logs/debug-core.log` links into the user's cache, to a log that all runs share: it is no part of this run."""
    link = run_directory / "logs" / "debug-core.log"
    if link.is_symlink():
        link.unlink()


def _own_files(
    run_directory: Path, launch: LaunchPaths, log: Path | None, changes: list[Change]
) -> Iterator[SealedFile]:
    """The log, what lies in `files/`, and wandb's debug logs."""
    if log is not None:
        yield _sealed(log, launch, "log")
    for path in regular_files(run_directory / "files"):
        if path.relative_to(run_directory / "files").as_posix() not in GENERATED:
            yield from _sealed_or_told(path, launch, "file", changes)
    for path in regular_files(run_directory / "logs"):
        yield from _sealed_or_told(path, launch, "debug", changes)


def _sealed_or_told(path: Path, launch: LaunchPaths, kind: str, changes: list[Change]) -> Iterator[SealedFile]:
    """A file whose name can't stand in a manifest (control characters, no UTF-8) is told instead."""
    name = path.relative_to(launch.root)
    if _listable(name.as_posix()):
        yield _sealed(path, launch, kind)
    else:
        changes.append(Change(printable(name), "unsafe: its name has control characters or is no UTF-8"))


def _listable(name: str) -> bool:
    """Whether a manifest can name this path."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return safe_relative(name) is not None


def _sealed(path: Path, launch: LaunchPaths, kind: str, source: str | None = None) -> SealedFile:
    size, digest = digest_file(path, sync=True)
    return SealedFile(path.relative_to(launch.root).as_posix(), size, digest, kind, source)


@dataclass
class _Staged:
    """What became of the local files that the artifacts of a log name, by the path in the log."""

    files: dict[str, SealedFile] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    """Digests of artifacts of which a file is missing."""


def _staged(log: Path, owner: Launch, follow_links: bool) -> _Staged:
    """The local files of every artifact in the log: those in the launch as they are, others copied into it."""
    staged, launch = _Staged(), owner.paths
    for artifact in artifacts(log, salvage=True):
        logged = {entry.local_path: entry.digest for entry in artifact.entries()}
        for named in local_paths(artifact, lambda path: in_launch(path, owner)):
            if named not in staged.files and named not in staged.changes:
                path = _bring_in(named, in_launch(named, owner), launch, log.parent.name, follow_links)
                if not isinstance(path, Change) and _changed_since(path, logged.get(named), launch):
                    path = Change(named, "missing: its content was changed between the call and the seal")
                if isinstance(path, Change):
                    staged.changes[named] = path
                else:
                    staged.files[named] = _sealed(path, launch, "staged", source=named)
            if named in staged.changes:
                staged.incomplete.add(artifact.digest)
    return staged


def local_paths(artifact: Artifact, place: Callable[[str], str] = str) -> Iterator[str]:
    """Every local file that an artifact needs: a very large manifest, and the bytes of each entry.

    `place` tells where a named file lies now.
    """
    yield from (entry.local_path for entry in artifact.entries() if entry.local_path)
    if artifact.manifest_file_path:
        yield artifact.manifest_file_path
        try:
            for entry in read_manifest_file(Path(place(artifact.manifest_file_path))):
                if entry.local_path:
                    yield entry.local_path
        except (OSError, ManifestFileError):
            return  # it is gone or foreign: that is told as its own missing file


def _changed_since(path: Path, logged: str | None, launch: LaunchPaths) -> bool:
    """Whether a file that wandb did not copy (`policy="immutable"`) is no longer what was logged.

    The server would refuse the artifact, or worse, hold other bytes under its name.
    """
    if not logged or not path.is_relative_to(launch.staged / SEALED_ELSEWHERE):
        return False
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            md5.update(chunk)
    return base64.b64encode(md5.digest()).decode() != logged


def _bring_in(named: str, place: str, launch: LaunchPaths, fragment: str, follow_links: bool) -> Path | Change:
    """The place within the launch directory of one file that the log of a fragment names; `place`: where it is now."""
    path = Path(place)
    if not path.is_absolute():
        return Change(named, "missing: the log names a relative path and nobody knows relative to what")
    try:
        return _brought_in(path, launch, fragment, follow_links)
    except FileNotFoundError:
        return Change(named, "missing: staged file is gone")
    except StorageError:
        raise
    except (OSError, ValueError):
        return Change(named, "unsafe: not a readable regular file")


def _brought_in(path: Path, launch: LaunchPaths, fragment: str, follow_links: bool) -> Path | Change:
    root = Path(os.path.realpath(launch.root))
    own_name = path.name if _listable(path.name) else "file"
    # A place for each fragment: the next one of this launch may name the same path with other bytes.
    key = hashlib.sha256(f"{fragment}\0{path}".encode(errors="surrogateescape")).hexdigest()[:16]
    kept = launch.staged / SEALED_ELSEWHERE / key / own_name
    if not follow_links and not Path(os.path.realpath(path)).is_relative_to(root):
        return kept if kept.is_file() else Change(str(path), "unsafe: outside the launch directory")
    try:
        source = open_regular(path, follow=True)
    except FileNotFoundError:
        if kept.is_file():
            return kept
        raise
    with os.fdopen(source, "rb"):
        real = Path(os.path.realpath(f"/proc/self/fd/{source}"))
        if real.is_relative_to(root) and os.fstat(source).st_nlink == 1 and _listable(str(real.relative_to(root))):
            return launch.root / real.relative_to(root)
        if not follow_links and not real.is_relative_to(root):
            return Change(str(path), "unsafe: outside the launch directory")
        durable.make_directory(kept.parent)
        copy_descriptor(source, kept)
    return kept


def _artifact_summaries(found: LogFacts, incomplete: set[str]) -> Iterator[dict[str, object]]:
    for artifact in found.artifacts:
        yield {
            "name": artifact.name,
            "type": artifact.type,
            "digest": artifact.digest,
            "files": artifact.entries,
            "aliases": list(artifact.aliases),
            "incomplete": artifact.digest in incomplete,
        }


def writer_here(entry: Entry) -> bool:
    """Whether the writer of a fragment was on this host in this boot: only then its links show what it meant."""
    here = current()
    return entry.writer is not None and (entry.writer.host, entry.writer.boot_id) == (here.host, here.boot_id)
