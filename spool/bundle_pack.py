"""Pack sealed fragments into a bundle (docs/bundle-format.md).

Guarantees: a fragment is carried as it was sealed, every byte hashed on its way, or it is left and told; the bundle is
whole and durable before an entry moves to *transit*; a crash anywhere leaves entries where they were, and the same
command again completes what was begun. Memory does not grow with the bytes that are packed.

Fails with `StorageError` (disk full, no permission), `UsageError` (the target is there and is something else) and
`BundleError` (a bundle that was to be finished is not whole).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from . import bundle_tar, clock, durable
from .bundle_disk import FileSink, Writeback, read_chunks
from .bundle_index import MAX_INDEX_BYTES, BundleError, Carried, Index, Kind, Member, parse_index
from .bundle_stream import BundleReader, BundleWriter, MemberDiffers
from .edits import load_edit
from .entry import Entry
from .errors import LostRaceError, SpoolError, StorageError, UsageError, storage_error
from .layout import LaunchPaths
from .manifest import MANIFEST_NAME, Manifest, read_manifest
from .queue import Place, Spool
from .seal import unsealed_growth
from .states import State

PACKABLE = frozenset({State.INCOMING, State.DEFERRED, State.QUARANTINED})
"""What is packed without being named."""
PACKABLE_BY_NAME = PACKABLE | {State.HELD}

_MAX_LAUNCH_RECORD_BYTES = 1 << 20
_INDEX_ROOM_BYTES = 1024  # what the index says besides its fragments

Progress = Callable[[int, int], None]
"""Bytes done, bytes in all."""


@dataclass(frozen=True)
class Left:
    """A fragment that is not packed, and why. `damaged`: its bytes are not those that were sealed."""

    name: str
    why: str
    damaged: bool = False


@dataclass(frozen=True)
class Packed:
    """A bundle that is whole and durable."""

    path: Path | None
    """None for a pipe."""
    digest: str
    index: Index
    size_bytes: int


@dataclass(frozen=True)
class Moved:
    """Which entries of a bundle moved to *transit*, and which did not and why."""

    names: tuple[str, ...]
    left: tuple[Left, ...] = ()


@dataclass
class Plan:
    """What would be packed."""

    carried: list[Carried] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


# -- planning --------------------------------------------------------------------------------------------------------


def plan(spool: Spool, entries: Iterable[Entry]) -> Plan:
    """The index of each fragment, from its manifest; no other file is opened. Entries come in any order."""
    by_path: dict[str, list[Entry]] = {}
    for entry in entries:
        by_path.setdefault(entry.path, []).append(entry)
    made = Plan()
    for path in sorted(by_path):
        of_fragment = sorted(by_path[path], key=lambda entry: entry.name)
        try:
            made.carried.append(_carry(spool, path, of_fragment))
        except _NotPackable as error:
            made.left += [Left(entry.name, error.why, error.damaged) for entry in of_fragment]
    return made


class _NotPackable(Exception):
    def __init__(self, why: str, *, damaged: bool = False) -> None:
        self.why, self.damaged = why, damaged
        super().__init__(why)


def _carry(spool: Spool, path: str, entries: Sequence[Entry]) -> Carried:
    entry = entries[0]
    manifest, digest, size_bytes = _manifest(spool, entry)
    if any(other.manifest_sha256 != digest for other in entries):
        raise _NotPackable("the manifest is not the one that was sealed", damaged=True)
    if unsealed_growth(spool, entry):
        raise _NotPackable("its log grew since it was sealed provisionally; `wandb-spool recover` looks after it")
    launch = path.rpartition("/wandb/")[0]
    members = [
        *_launch_record(spool, launch),
        Member(f"{path}/{MANIFEST_NAME}", size_bytes, digest),
        *(Member(f"{launch}/{item.path}", item.size_bytes, item.sha256) for item in manifest.files),
    ]
    unique = dict.fromkeys(members)  # two artifacts of a run may name one file
    try:
        carried = Carried(path, digest, tuple(entries), tuple(unique), load_edit(spool.root, entry))
    except SpoolError as error:
        raise _NotPackable(str(error), damaged=True) from error
    try:
        parse_index(Index(Kind.RUNS, spool.spool_id, (carried,)).encode())
    except (BundleError, UnicodeEncodeError) as error:
        raise _NotPackable(f"it can't be carried: {error}") from error
    return carried


def _manifest(spool: Spool, entry: Entry) -> tuple[Manifest, str, int]:
    run_directory = entry.run_directory(spool.root)
    try:
        manifest, digest = read_manifest(run_directory)
        size = (run_directory / MANIFEST_NAME).stat().st_size
    except FileNotFoundError as error:
        raise _NotPackable("its manifest or its run directory is gone", damaged=True) from error
    except (OSError, SpoolError) as error:
        raise _NotPackable(str(error), damaged=True) from error
    if (manifest.launch, manifest.fragment) != (entry.launch, entry.fragment):
        raise _NotPackable("its manifest is that of another fragment", damaged=True)
    return manifest, digest, size


def _launch_record(spool: Spool, launch: str) -> Iterator[Member]:
    """launch.json, as it is now: no manifest lists it, nothing depends on it."""
    path = LaunchPaths(spool.root / launch).record
    try:
        content = b"".join(bytes(chunk) for chunk in read_chunks(path))
    except (OSError, ValueError):
        return
    if len(content) <= _MAX_LAUNCH_RECORD_BYTES:
        yield Member(f"{launch}/{path.name}", len(content), hashlib.sha256(content).hexdigest())


def divide(carried: Sequence[Carried], max_size_bytes: int | None) -> tuple[list[list[Carried]], list[Left]]:
    """Fragments in bundles of at most `max_size_bytes` and of an index that may be read. Pure."""
    groups: list[list[Carried]] = []
    left: list[Left] = []
    room = index_room = 0
    for fragment in carried:
        size, index_bytes = _largest_bytes(fragment), len(Index(Kind.RUNS, "", (fragment,)).encode())
        if index_bytes + _INDEX_ROOM_BYTES > MAX_INDEX_BYTES:
            left += [
                Left(entry.name, "it has more files than the index of a bundle can list") for entry in fragment.entries
            ]
            continue
        if max_size_bytes is not None and size > max_size_bytes:
            why = (
                f"by itself it is larger ({size} bytes) than --max-size; pack it alone and cut the bundle with `split`"
            )
            left += [Left(entry.name, why) for entry in fragment.entries]
            continue
        if not groups or (max_size_bytes is not None and size > room) or index_bytes > index_room:
            groups.append([])
            room = max_size_bytes or 0
            index_room = MAX_INDEX_BYTES - _INDEX_ROOM_BYTES
        groups[-1].append(fragment)
        room -= size
        index_room -= index_bytes
    return groups, left


def _largest_bytes(fragment: Carried) -> int:
    """The most that a bundle of this fragment alone can take, if nothing can be compressed."""
    index_bytes = len(Index(Kind.RUNS, "", (fragment,)).encode()) + _INDEX_ROOM_BYTES
    stored = sum(bundle_tar.stored_bytes(member.path, member.size_bytes) for member in fragment.members)
    plain = stored + index_bytes + 8 * bundle_tar.BLOCK_BYTES
    return plain + 3 * (plain // (128 << 10) + 2) + 64


def numbered(path: Path, number: int) -> Path:
    """`runs.tar.zst` → `runs.2.tar.zst`."""
    name = path.name
    suffix = ".tar.zst" if name.endswith(".tar.zst") else path.suffix
    return path.with_name(f"{name[: len(name) - len(suffix)]}.{number}{suffix}")


# -- writing ---------------------------------------------------------------------------------------------------------


def write_bundle(
    spool: Spool, carried: Sequence[Carried], target: Path, progress: Progress | None = None
) -> tuple[Packed | None, list[Left]]:
    """Write a bundle of these fragments durably; returns it (None: nothing was fit to be packed) and what was left.

    Raises UsageError when the target is there already or another `pack` writes it.
    """
    return _write_file(target, lambda sink: _write_good(spool, carried, sink, progress))


def write_index(root: Path, index: Index, target: Path) -> Packed:
    """Write a bundle of files below `root` durably."""

    def write(sink: FileSink) -> tuple[Packed, list[Left]]:
        return _stream(root, index, sink, None), []

    packed, _ = _write_file(target, write)
    assert packed is not None
    return packed


def _write_file(
    target: Path, write: Callable[[FileSink], tuple[Packed | None, list[Left]]]
) -> tuple[Packed | None, list[Left]]:
    part = target.parent / f".{target.name}.part"
    fd = _open_part(part, target)
    try:
        with Writeback() as writeback:
            packed, left = write(FileSink(fd, writeback))
        durable._step("fsync", target)
        os.fsync(fd)
        if packed is None:
            part.unlink()
            return None, left
        size = os.fstat(fd).st_size
        durable._step("rename", target)
        if os.path.lexists(target):
            raise UsageError("the file appeared meanwhile, it was not replaced", path=target)
        os.rename(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _cannot_write(target, error) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    durable.sync_directory(target.parent)
    return replace(packed, path=target, size_bytes=size), left


def _cannot_write(target: Path, cause: OSError) -> StorageError:
    error = storage_error("write the bundle", target, cause)
    error.hint = "the runs stay where they were: free some room there" if error.full else "choose another --out"
    return error


def _open_part(part: Path, target: Path) -> int:
    if os.path.lexists(target):
        raise UsageError("the file is there already, it was not replaced", path=target, hint="choose another --out")
    try:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise UsageError("another `pack` writes this bundle right now", path=target) from error
    except OSError:
        pass  # a file system without locks: two writers of one name are then the person's own business
    os.ftruncate(fd, 0)
    return fd


def _write_good(
    spool: Spool, carried: Sequence[Carried], sink: FileSink, progress: Progress | None
) -> tuple[Packed | None, list[Left]]:
    """Write, and begin again without the fragments that turned out to differ from their seal."""
    good = list(carried)
    left: list[Left] = []
    while good:
        try:
            return _stream(spool.root, Index(Kind.RUNS, spool.spool_id, tuple(good)), sink, progress), left
        except MemberDiffers:
            good, differing = verify(spool, good)
            left += differing
            os.ftruncate(sink.fd, 0)
            os.lseek(sink.fd, 0, os.SEEK_SET)
    return None, left


def write_pipe(
    spool: Spool, carried: Sequence[Carried], sink: Callable[[bytes], None], progress: Progress | None = None
) -> tuple[Packed | None, list[Left]]:
    """Write a bundle into a pipe. Every file is checked first, because nothing can be taken back."""
    good, left = verify(spool, carried)
    if not good:
        return None, left
    try:
        return _stream(spool.root, Index(Kind.RUNS, spool.spool_id, tuple(good)), sink, progress), left
    except MemberDiffers as error:
        raise BundleError(f"a file changed while it was packed, what was written is no bundle ({error})") from error


def verify(spool: Spool, carried: Sequence[Carried]) -> tuple[list[Carried], list[Left]]:
    """Which fragments are as they were sealed, and which are not."""
    good: list[Carried] = []
    left: list[Left] = []
    for fragment in carried:
        try:
            for member in fragment.members:
                _check(spool.root, member)
            good.append(fragment)
        except MemberDiffers as error:
            left += [Left(entry.name, str(error), True) for entry in fragment.entries]
    return good, left


def _check(root: Path, member: Member) -> None:
    digest = hashlib.sha256()
    size = 0
    for chunk in _content(root, member):
        digest.update(chunk)
        size += len(chunk)
    if (size, digest.hexdigest()) != (member.size_bytes, member.sha256):
        raise MemberDiffers(member, "other bytes than those that were sealed")


def _stream(root: Path, index: Index, sink: Callable[[bytes], None], progress: Progress | None) -> Packed:
    writer = BundleWriter(sink, index)
    total = index.size_bytes
    done = 0

    def counted(chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(done, total)

    for member in index.stored():
        writer.add(member, counted(_content(root, member)))
    writer.finish()
    return Packed(None, writer.head.index_sha256, index, total)


def _content(root: Path, member: Member) -> Iterator[memoryview]:
    try:
        yield from read_chunks(root / member.path)
    except FileNotFoundError as error:
        raise MemberDiffers(member, "gone since the seal") from error
    except ValueError as error:
        raise MemberDiffers(member, "no regular file since the seal") from error
    except OSError as error:
        if (root / member.path).is_symlink():
            raise MemberDiffers(member, "a link since the seal") from error
        raise storage_error("read", root / member.path, error) from error


# -- the entries -----------------------------------------------------------------------------------------------------


def mark_packed(spool: Spool, packed: Packed, *, now_s: float) -> Moved:
    """Move the entries of a durable bundle to *transit*. Those that are there already, or further, stay."""
    places = spool.scan()
    moved: list[str] = []
    left: list[Left] = []
    for carried in packed.index.fragments:
        for entry in carried.entries:
            place = places.get(entry.name)
            why = _mark(spool, place, carried, packed, now_s)
            if why is None:
                moved.append(entry.name)
            elif why:
                left.append(Left(entry.name, why))
    return Moved(tuple(moved), tuple(left))


def _mark(spool: Spool, place: Place | None, carried: Carried, packed: Packed, now_s: float) -> str | None:
    """None when the entry moved; else why not, empty where there is nothing to say."""
    if place is None:
        return "its entry is gone"
    if place.state not in PACKABLE_BY_NAME:
        return "" if place.state in (State.TRANSIT, State.DELIVERED) else f"it is {place.state} by now"
    name = packed.path.name if packed.path is not None else "a pipe"
    try:
        entry = spool.read(place)
        if entry.manifest_sha256 != carried.manifest_sha256:
            return "it was sealed anew since"
        if load_edit(spool.root, entry) != carried.edit:
            return "it was edited since: pack it again, into another file"
        note = {"file": name, "digest": packed.digest, "at": clock.iso(now_s)}
        body = replace(entry, extra={**entry.extra, "packed": note})
        spool.move(place, State.TRANSIT, body, why=f"packed into {name} ({packed.digest[:12]})", now_s=now_s)
    except (LostRaceError, FileNotFoundError):
        return "it moved meanwhile"
    return None


def waiting_entries(spool: Spool, index: Index) -> list[str]:
    """Entries of a bundle that are not in transit yet though the bundle carries them: its `pack` was interrupted."""
    places = spool.scan(PACKABLE_BY_NAME)
    found: list[str] = []
    for carried in index.fragments:
        for entry in carried.entries:
            place = places.get(entry.name)
            if place is not None:
                try:
                    known = spool.read(place)
                    same_edit = load_edit(spool.root, known) == carried.edit
                    if same_edit and known.manifest_sha256 == carried.manifest_sha256:
                        found.append(entry.name)
                except (FileNotFoundError, SpoolError):
                    continue
    return found


def read_index_of(path: Path) -> tuple[Index, str]:
    """Index and digest of a bundle file. Raises BundleError, or StorageError when it can't be read."""
    with open_bundle(path) as stream, naming(str(path)):
        reader = BundleReader(stream)
        return reader.index, reader.digest


def verify_bundle(stream: BinaryIO, *, progress: Progress | None = None) -> tuple[Index, str]:
    """Read a bundle to its end and check every byte. Raises BundleError."""
    reader = BundleReader(stream)
    total, done = reader.index.size_bytes, 0
    for member in reader.index.stored():
        for chunk in reader.content(member):
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    reader.finish()
    return reader.index, reader.digest


def open_bundle(path: Path) -> BinaryIO:
    """Open a bundle for reading. Raises UsageError when it is not there or no file."""
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise UsageError("no such bundle", path=path) from error
    except IsADirectoryError as error:
        raise UsageError("a bundle is a file, this is a directory", path=path) from error
    except OSError as error:
        raise storage_error("read the bundle", path, error) from error
    return stream


class naming:
    """Adds the bundle's name to what is wrong with it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BundleError) and error.path is None:
            raise BundleError(
                f"the bundle is refused, nothing of it was used: {error.what}",
                path=self._name,
                hint="copy or fetch it again from where it was packed",
            ) from error
