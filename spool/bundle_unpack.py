"""Unpack a bundle into a spool (docs/bundle-format.md).

Guarantees: nothing of a bundle is visible before its last byte was verified; a fragment arrives whole or not at all;
unpacking twice is unpacking once, also after a crash; a bundle that is refused leaves no trace. Memory does not grow
with the bundle. What is written lies below the spool, whatever the bundle says.

Fails with `BundleError` (cut, altered, hostile), `StorageError` (no room, no permission) and `UsageError`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from . import clock, durable
from .bundle_disk import FileSink, Writeback
from .bundle_index import MAX_INDEX_BYTES, BundleError, Carried, Index, Kind, Member
from .bundle_pack import Left, Progress
from .bundle_receipts import AcceptedReceipts, accept_receipts
from .bundle_stream import BundleReader
from .capture import digest_file
from .edits import edit_key, load_edit, save_edit
from .entry import Entry
from .errors import SpoolError, StorageError, UsageError, storage_error
from .manifest import MANIFEST_NAME, Manifest, read_manifest
from .queue import Place, Spool
from .seal import entry_of
from .states import State
from .words import size

STAGING_PREFIX = ".unpack-"
ARRIVING = "arriving"
"""Key in an entry in *transit* whose files are on their way; where a crash left it, unpacking again completes it."""

_BYTES_PER_FILE = 4096  # what a file takes on most disks besides its content


@dataclass
class Unpacked:
    """What became of a bundle."""

    digest: str
    index: Index
    arrived: list[Entry] = field(default_factory=list)
    here: list[tuple[str, State]] = field(default_factory=list)
    """Entries that were here already, and their state."""
    edited: list[str] = field(default_factory=list)
    """Fragments whose run has the bundle's edit now."""
    left: list[Left] = field(default_factory=list)
    receipts: AcceptedReceipts | None = None


def unpack(
    spool: Spool,
    stream: BinaryIO,
    *,
    name: str,
    now_s: float,
    digest: str | None = None,
    progress: Progress | None = None,
) -> Unpacked:
    """Verify a bundle and take over what it carries. `digest`: the one that it must have (or the beginning of it)."""
    reader = BundleReader(stream, digest=digest)
    with _alone(spool):
        result = Unpacked(reader.digest, reader.index)
        places = spool.scan()
        wanted = [carried for carried in reader.index.fragments if _is_wanted(spool, places, carried, result)]
        staging = spool.root / f"{STAGING_PREFIX}{reader.digest[:16]}-{secrets.token_hex(4)}"
        try:
            _extract(spool, reader, wanted, staging, progress)
            if reader.index.kind is Kind.RECEIPTS:
                result.receipts = accept_receipts(spool, staging, reader.index, reader.digest, now_s=now_s)
            manifests = [_manifest(staging, carried) for carried in wanted]
            origin = _Origin(name, reader, places, now_s)
            for carried, manifest in zip(wanted, manifests, strict=True):
                _take_over(spool, staging, carried, manifest, origin, result)
            here = {name for name, _ in result.here} - {entry.name for carried in wanted for entry in carried.entries}
            for carried in reader.index.fragments:
                if any(entry.name in here for entry in carried.entries):
                    _take_edit(spool, carried, carried.entries[0], origin, result)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Origin:
    """Where fragments come from, for the history of their entries."""

    name: str
    reader: BundleReader
    places: dict[str, Place]
    now_s: float

    def note(self, manifest: Manifest) -> dict[str, Any]:
        return {
            "file": self.name,
            "digest": self.reader.digest,
            "spool_id": manifest.spool_id,
            "packed_by": self.reader.index.spool_id,
            "at": clock.iso(self.now_s),
        }

    @property
    def why(self) -> str:
        return (
            f"unpacked from {self.name} ({self.reader.digest[:12]}), packed in spool {self.reader.index.spool_id[:12]}"
        )


@contextmanager
def _alone(spool: Spool) -> Iterator[None]:
    """One `unpack` at a time in a spool; what an interrupted one left in its staging directory goes."""
    try:
        fd = os.open(spool.paths.marker, os.O_RDONLY)
    except OSError as error:
        raise storage_error("unpack into the spool", spool.paths.marker, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError("another `unpack` works in this spool right now", path=spool.root) from error
        except OSError:
            pass  # no locks here: then nobody can say whether a staging directory is in use
        else:
            for leftover in spool.root.glob(f"{STAGING_PREFIX}*-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        if not spool.paths.marker.exists():
            raise UsageError("the spool was taken away meanwhile; unpack again", path=spool.root)
        yield
    finally:
        os.close(fd)


def take_back(spool: Spool, *, with_root: bool) -> None:
    """Remove a spool that was made for a bundle that was then refused. Only what is empty goes, and only while nobody
    else unpacks here: another process may have begun to use the spool."""
    try:
        with _alone(spool):
            below = [Path(parent) for parent, _, _ in os.walk(spool.root, topdown=False)][:-1]
            if any(spool.scan()) or any(name != spool.paths.marker.name for name in _file_names(spool.root)):
                return
            for directory in below:
                directory.rmdir()
            spool.paths.marker.unlink()
            if with_root:
                spool.root.rmdir()
    except (OSError, SpoolError):
        pass  # somebody uses it: then it is no trace of ours any more


def _file_names(root: Path) -> Iterator[str]:
    for _, _, names in os.walk(root):
        yield from names


# -- before anything is visible --------------------------------------------------------------------------------------


def _is_wanted(spool: Spool, places: dict[str, Place], carried: Carried, result: Unpacked) -> bool:
    """Whether a fragment is to arrive: it is not here yet, or an interrupted `unpack` left it half-way."""
    missing = False
    for entry in carried.entries:
        place = places.get(entry.name)
        if place is None:
            missing = True
            continue
        try:
            known = spool.read(place)
        except (FileNotFoundError, SpoolError) as error:
            result.left.append(Left(entry.name, f"its entry here can't be read ({error})", damaged=True))
            return False
        if known.manifest_sha256 != carried.manifest_sha256:
            why = f"another seal of it is here already ({place.state}); discard that one first if this is the right one"
            result.left.append(Left(entry.name, why))
            return False
        if place.state is State.TRANSIT and known.extra.get(ARRIVING):
            missing = True
        else:
            result.here.append((entry.name, place.state))
    return missing


def _extract(
    spool: Spool, reader: BundleReader, wanted: list[Carried], staging: Path, progress: Progress | None
) -> None:
    """Read the bundle to its end; the members of wanted fragments go to the staging directory, durably."""
    index = reader.index
    kept = {member.path for carried in wanted for member in carried.members} | {m.path for m in index.loose}
    _require_room(spool, [member for member in index.stored() if member.path in kept])
    total, done = index.size_bytes, 0
    directories: set[Path] = set()
    try:
        _make(staging, spool, directories)
        with Writeback() as writeback:
            for member in index.stored():
                sink = None
                if member.path in kept:
                    sink = FileSink(_create(staging / member.path, spool, directories), writeback)
                try:
                    for chunk in reader.content(member):
                        if sink is not None:
                            sink(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, total)
                finally:
                    if sink is not None:
                        writeback.close(sink.fd)
            reader.finish()
        for directory in sorted(directories, key=lambda path: len(path.parts), reverse=True):
            durable.sync_directory(directory)
    except OSError as error:
        raise storage_error("unpack the bundle", staging, error) from error


def _require_room(spool: Spool, members: list[Member]) -> None:
    needed = sum(member.size_bytes + _BYTES_PER_FILE for member in members)
    try:
        found = os.statvfs(spool.root)
    except OSError as error:
        raise storage_error("look at the disk of the spool", spool.root, error) from error
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise StorageError(
            f"the bundle needs {size(needed)} and the disk has {size(free)}, nothing was unpacked",
            path=spool.root,
            hint="free some room or name another spool with --spool",
        )


def _create(path: Path, spool: Spool, directories: set[Path]) -> int:
    """A new file; a name that this file system takes for another one's is refused."""
    _make(path.parent, spool, directories)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
        if spool.group:
            os.fchmod(fd, spool.file_mode)
        return fd
    except FileExistsError as error:
        raise BundleError(f"{path.name!r} and another name in it are the same name on this file system") from error


def _make(directory: Path, spool: Spool, made: set[Path]) -> None:
    missing: list[Path] = []
    while directory not in made and directory != spool.root:
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700)
            if spool.group:
                path.chmod(0o2770)
        except FileExistsError as error:
            raise BundleError(f"{path.name!r} and another name in it are the same name on this file system") from error
        made.add(path)


def _manifest(staging: Path, carried: Carried) -> Manifest:
    """The manifest of an unpacked fragment, which must say exactly what the index says."""
    by_path = {member.path: member for member in carried.members}
    if by_path[carried.manifest_path].size_bytes > MAX_INDEX_BYTES:
        raise BundleError(f"the manifest of {carried.name} is larger than any")
    try:
        manifest, _ = read_manifest(staging / carried.path)
    except (SpoolError, OSError) as error:
        raise BundleError(f"the manifest of {carried.name} is none: {error}") from error
    if f"{manifest.launch}.{manifest.fragment}" != carried.name:
        raise BundleError(f"the manifest of {carried.name} is that of another fragment")
    listed = {
        Member(f"{carried.launch_path}/{item.path}", item.size_bytes, item.sha256)
        for item in manifest.files
    }  # fmt: skip
    others = {by_path[carried.manifest_path], by_path.get(carried.launch_record_path)}
    if listed != set(carried.members) - others:
        raise BundleError(f"the manifest of {carried.name} lists other files than the index")
    return manifest


# -- becoming visible ------------------------------------------------------------------------------------------------


def _take_over(
    spool: Spool, staging: Path, carried: Carried, manifest: Manifest, origin: _Origin, result: Unpacked
) -> None:
    """Bring one fragment into place. Its entries come first, in a state in which nobody acts on them."""
    obstacle = _obstacle(spool, staging, carried)
    if obstacle is not None:
        result.left += [Left(entry.name, obstacle) for entry in carried.entries]
        return
    places = [_announce(spool, entry, carried, manifest, origin) for entry in carried.entries]
    for member in carried.members:
        if not member.path.startswith(f"{carried.path}/"):
            _bring(spool, staging, member.path)
    if (staging / carried.path).exists() and not (spool.root / carried.path).exists():
        durable.make_directory((spool.root / carried.path).parent)
        durable.rename(staging / carried.path, spool.root / carried.path)
    # Before a syncer may take the fragment: it must not be delivered without what a person changed of it.
    _take_edit(spool, carried, entry_of(carried.entries[0], manifest, carried.manifest_sha256), origin, result)
    for place in places:
        if place is not None:
            entry = spool.read(place)
            kept = {key: value for key, value in entry.extra.items() if key != ARRIVING}
            arrived = replace(entry, extra=kept)
            spool.move(place, State.INCOMING, arrived, why=origin.why, now_s=origin.now_s)
            result.arrived.append(arrived)


def _announce(spool: Spool, entry: Entry, carried: Carried, manifest: Manifest, origin: _Origin) -> Place | None:
    """The entry of a fragment that is about to arrive; None for one that is here for good already."""
    place = origin.places.get(entry.name)
    if place is not None:
        return place if place.state is State.TRANSIT and spool.read(place).extra.get(ARRIVING) else None
    known = entry if entry.replay is not None else entry_of(entry, manifest, carried.manifest_sha256)
    extra = {"bundle": origin.note(manifest), ARRIVING: True}
    return spool.add(replace(known, extra=extra), State.TRANSIT)


def _take_edit(spool: Spool, carried: Carried, entry: Entry, origin: _Origin, result: Unpacked) -> None:
    """Take over the edit of a run, unless another one is here, or some of the run went without it already."""
    if not carried.edit:
        return
    try:
        present = load_edit(spool.root, entry)
        if present == carried.edit:
            return
        why = "another edit of its run is here" if present else _went_without(spool, entry, origin)
        if why is None:
            save_edit(spool, entry, carried.edit, by=origin.why, now_s=origin.now_s)
            result.edited.append(carried.name)
            return
    except SpoolError as error:
        why = str(error)
    told = f"the edit that the bundle carries was not taken over: {why}; `wandb-spool edit {entry.run_id}` shows it"
    result.left.append(Left(carried.name, told))


def _went_without(spool: Spool, entry: Entry, origin: _Origin) -> str | None:
    """Why an edit comes too late: an edit holds for all fragments of a run, and some were pushed from here."""
    key = edit_key(entry)
    for place in origin.places.values():
        if place.state is State.TRANSIT or f"-{entry.run_id}" not in place.name:
            continue
        try:
            other = spool.read(place)
        except (FileNotFoundError, SpoolError):
            continue
        if edit_key(other) == key and (other.attempts or other.target or other.receipt):
            return f"{other.name} was pushed from here without it"
    return None


def _obstacle(spool: Spool, staging: Path, carried: Carried) -> str | None:
    """What stands where a fragment belongs, if anything does."""
    for member in carried.members:
        target = spool.root / member.path
        link = _link_above(spool, target)
        if link is not None:
            return f"{link} is a link"
        if member.path.startswith(f"{carried.path}/") or member.path == carried.launch_record_path:
            continue
        if os.path.lexists(target) and not _same(target, member):
            return f"another file is there already: {target}"
    directory = spool.root / carried.path
    if os.path.lexists(directory) and not _arrived_before(directory, carried):
        return f"another run directory is there already: {directory}"
    return None


def _link_above(spool: Spool, target: Path) -> Path | None:
    """In a spool that several people share, somebody could have put a link where a launch belongs."""
    for parent in target.parents:
        if parent == spool.root:
            return None
        try:
            if not stat.S_ISDIR(parent.lstat().st_mode):
                return parent
        except FileNotFoundError:
            continue
    return None


def _same(path: Path, member: Member) -> bool:
    try:
        return digest_file(path) == (member.size_bytes, member.sha256)
    except (OSError, ValueError, SpoolError):
        return False


def _arrived_before(directory: Path, carried: Carried) -> bool:
    """Whether an `unpack` that was interrupted put this very fragment there."""
    try:
        _, digest = read_manifest(directory)
    except (OSError, SpoolError):
        return False
    return digest == carried.manifest_sha256


def _bring(spool: Spool, staging: Path, path: str) -> None:
    """Move one file of a launch into place, unless it is there."""
    source, target = staging / path, spool.root / path
    if target.exists() or not source.exists():
        return
    durable.make_directory(target.parent)
    durable.rename(source, target)


__all__ = ["ARRIVING", "MANIFEST_NAME", "STAGING_PREFIX", "Unpacked", "take_back", "unpack"]
