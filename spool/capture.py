"""Make a run directory self-contained: afterwards no file in it is a link to something that can change or vanish.

Symbolic links and hard links are replaced by copies of what they show now (by reflink where the file system can);
what can't be kept (target gone, a device, a link out of the spool seen from another host) is told, never guessed.
Digests are taken from the same open file that was checked, so a link that is swapped in between is not followed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        relative = path.relative_to(within).as_posix()
        kept = _detach(path, within=within, follow_outside=follow_outside)
        changes.append(Change(relative, kept))
    return changes


def _links(directory: Path) -> Iterator[Path]:
    """Symbolic links, files with several names, and whatever is neither file nor directory."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _links(Path(entry.path))
        else:
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                yield Path(entry.path)


def _detach(path: Path, *, within: Path, follow_outside: bool) -> str:
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not follow_outside and not target.is_relative_to(os.path.realpath(within)):
            path.unlink()
            return "unsafe: a link out of the launch directory"
        if target.is_dir():
            return _replace_by_tree(path, target)
    return _replace_by_copy(path)


def _replace_by_tree(path: Path, target: Path) -> str:
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        shutil.copytree(target, temporary, symlinks=False, ignore_dangling_symlinks=True)
        path.unlink()
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error("copy the linked directory", path, error) from error
    return LINK_REPLACED


def _replace_by_copy(path: Path) -> str:
    try:
        source = open_regular(path, follow=True)
    except FileNotFoundError:
        path.unlink()
        return "missing: the file that the link named is gone"
    except PermissionError:
        path.unlink()
        return "missing: the file that the link named can't be read"
    except ValueError:
        path.unlink()
        return "unsafe: not a regular file"
    except OSError as error:
        raise storage_error("read", path, error) from error
    with os.fdopen(source, "rb"):
        copy_descriptor(source, path)
    return LINK_REPLACED


def open_regular(path: Path, *, follow: bool = False) -> int:
    """Open a regular file for reading. Raises ValueError for anything else (a FIFO must not block the seal)."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("not a regular file")
    return fd


def copy_descriptor(source: int, target: Path) -> None:
    """Put a durable copy of an open file at `target`, by reflink where possible. Raises StorageError."""
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            copy_bytes(source, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error("copy", target, error) from error


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
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in found:
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
    "open_regular",
    "regular_files",
]
