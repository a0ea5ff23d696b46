"""Make a run directory self-contained: afterwards no file in it is a link to something that can change or vanish.

Symbolic links and hard links are replaced by copies of what they show now (by reflink where the file system can);
what can't be kept (target gone, a device, a link out of the spool seen from another host) is told, never guessed.
Digests are taken from the same open file that was checked, so a link that is swapped in between is not followed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .durable import TEMPORARY_PREFIX
from .errors import StorageError, storage_error

_FICLONE = 0x40049409
_CHUNK_BYTES = 1 << 20


LINK_REPLACED = "link replaced"
"""Nothing is lost: the file holds what the link showed."""


@dataclass(frozen=True)
class Change:
    """Something about a file that the seal could not keep as it was meant."""

    path: str
    what: str  # missing, unsafe, link replaced

    def as_json(self) -> dict[str, str]:
        return {"path": self.path, "what": self.what}


def detach_links(directory: Path, *, within: Path, follow_outside: bool) -> list[Change]:
    """Replace every link below `directory` by a copy of what it shows.

    `within` is the launch directory. `follow_outside` is false when the seal is not made on the writer's host: then
    a link out of the launch is not followed, because it would show this host's files and not the writer's.
    Raises StorageError when there is no room for a copy.
    """
    changes: list[Change] = []
    for path in list(_links(directory)):
        for what, where in _detach(path, within, follow_outside, frozenset()):
            changes.append(Change(printable(where.relative_to(within)), what))
    return changes


def printable(path: Path) -> str:
    """A path as it can be told, also one whose name is no UTF-8."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _links(directory: Path) -> Iterator[Path]:
    """Symbolic links, files with several names, and whatever is neither file nor directory."""
    for entry in _listed(directory):
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _links(Path(entry.path))
        elif _is_special(entry):
            yield Path(entry.path)


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    """What lies in a directory, in a fixed order. Raises StorageError where it can't be read."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error("read the directory", directory, error) from error


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(status.st_mode) or status.st_nlink > 1


_Told = Iterator[tuple[str, Path]]


def _detach(path: Path, within: Path, follow_outside: bool, above: frozenset[str]) -> _Told:
    """Replace one link; yields what was done, with the place where it was done.

    `above`: the directories whose copying led here; a link back to one of them would never end.
    """
    if path.is_symlink():
        target = os.path.realpath(path)
        if not follow_outside and not _inside(target, within):
            path.unlink()
            yield "unsafe: a link out of the launch directory", path
            return
        if os.path.isdir(target):
            yield from _replace_by_tree(path, Path(target), within, follow_outside, above)
            return
    yield _replace_by_copy(path, None if follow_outside else within), path


def _inside(target: str, within: Path) -> bool:
    return Path(target).is_relative_to(os.path.realpath(within))


def _replace_by_tree(path: Path, target: Path, within: Path, follow_outside: bool, above: frozenset[str]) -> _Told:
    if str(target) in above or Path(os.path.realpath(path.parent)).is_relative_to(target):
        path.unlink()
        yield "unsafe: a link to a directory that it lies in", path
        return
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    told: list[tuple[str, Path]] = []
    try:
        temporary.mkdir(0o700)
        told += _copy_tree(target, temporary, within, follow_outside, above | {str(target)})
        path.unlink()
        temporary.rename(path)
    except StorageError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error("copy the linked directory", path, error) from error
    yield LINK_REPLACED, path
    for what, where in told:
        if what != LINK_REPLACED:
            yield what, path / where.relative_to(temporary)


def _copy_tree(source: Path, target: Path, within: Path, follow_outside: bool, above: frozenset[str]) -> _Told:
    """Copy a directory as it lies there; links in it are resolved by the same rules as links in the run directory."""
    for entry in _listed(source):
        place = target / entry.name
        if entry.is_symlink():
            place.symlink_to(os.path.realpath(entry.path))
            yield from _detach(place, within, follow_outside, above)
        elif entry.is_dir(follow_symlinks=False):
            place.mkdir(0o700)
            yield from _copy_tree(Path(entry.path), place, within, follow_outside, above | {os.path.realpath(entry)})
        else:
            kept = _copy_file(Path(entry.path), place)
            if kept != LINK_REPLACED:
                yield kept, place


def _replace_by_copy(path: Path, within: Path | None) -> str:
    """Put a copy of what `path` shows in its place; what can't be kept goes away and is told."""
    kept = _copy_file(path, path, within)
    if kept != LINK_REPLACED:
        path.unlink()
    return kept


def _copy_file(path: Path, target: Path, within: Path | None = None) -> str:
    """Copy what `path` shows to `target`. `within`: it must lie there, whatever a link meanwhile points to."""
    try:
        source = open_regular(path, follow=True)
    except FileNotFoundError:
        return "missing: the file that the link named is gone"
    except PermissionError:
        return "missing: the file that the link named can't be read"
    except ValueError:
        return "unsafe: not a regular file"
    except OSError as error:
        raise storage_error("read", path, error) from error
    with os.fdopen(source, "rb"):
        if within is not None and not _inside(os.path.realpath(f"/proc/self/fd/{source}"), within):
            return "unsafe: a link out of the launch directory"
        copy_descriptor(source, target)
    return LINK_REPLACED


_NO_FILE = frozenset({errno.ENXIO, errno.ENODEV, errno.ELOOP, errno.EISDIR})


def open_regular(path: Path, *, follow: bool = False) -> int:
    """Open a regular file for reading. Raises ValueError for anything else (a FIFO must not block the seal)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in _NO_FILE:  # a socket, a device without a driver, a circle of links
            raise ValueError("not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("not a regular file")
    return fd


def open_below(root: Path, relative: str) -> int:
    """Open a regular file below a directory, following no link on the way.

    Raises ValueError for a link, a directory or a device, FileNotFoundError, NotADirectoryError or another OSError.
    """
    parts = PurePosixPath(relative).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise ValueError("not a path below the directory")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = _open_at(part, at, os.O_DIRECTORY)
            os.close(at)
            at = below
        fd = _open_at(parts[-1], at, os.O_NONBLOCK)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("not a regular file")
    return fd


def _open_at(name: str, directory: int, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP or stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
            raise ValueError("a link") from error
        raise


def copy_descriptor(source: int, target: Path) -> None:
    """Put a durable copy of an open file at `target`, by reflink where possible. Raises StorageError."""
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy_bytes(source, fd)
            os.fsync(fd)
            _rename(temporary, target, fd)
        finally:
            os.close(fd)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error("copy", target, error) from error


def _rename(temporary: Path, target: Path, fd: int) -> None:
    try:
        os.rename(temporary, target)
    except FileNotFoundError:  # a network file system may say so to the winner, when it had to ask twice
        if not os.path.samestat(os.fstat(fd), os.stat(target)):
            raise


def copy_bytes(source: int, target: int) -> None:
    """Copy one open file into another, by reflink where the file system can. Nothing is made durable."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError:
        pass  # no reflink here: copy the bytes
    offset = 0
    while True:
        chunk = os.pread(source, _CHUNK_BYTES, offset)
        if not chunk:
            return
        offset += len(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]


def digest_file(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """Size and SHA-256 of a regular file, without following a link.

    Raises FileNotFoundError, ValueError (a link or no regular file) or StorageError. `sync` makes its bytes durable.
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise ValueError("a link") from error
        raise storage_error("read", path, error) from error
    digest = hashlib.sha256()
    size = 0
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        with os.fdopen(fd, "rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(view[:count])
                size += count
            if sync:
                os.fsync(stream.fileno())
    except OSError as error:
        raise storage_error("read", path, error) from error
    return size, digest.hexdigest()


def regular_files(directory: Path) -> Iterator[Path]:
    """Regular files below a directory, in a fixed order, following no link."""
    for entry in _listed(directory):
        if entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from regular_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


__all__ = [
    "LINK_REPLACED",
    "Change",
    "StorageError",
    "copy_bytes",
    "copy_descriptor",
    "detach_links",
    "digest_file",
    "open_below",
    "open_regular",
    "printable",
    "regular_files",
]
