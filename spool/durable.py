"""Durable writes: the only module that makes a file appear, move or vanish in a spool.

Guarantee: after `write` returned, the new content survives power loss; before, a reader (and a crash) sees the old
content or none, never a mixture. Fails with `StorageError`, which names operation, path and mend; a failed write leaves
no temporary file behind where the file system still lets us remove it.

`on_step` is a seam for attacks: when set, it is called with the name of each step as it is about to happen, so that a
test can kill the process between any two of them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import StorageError, storage_error

TEMPORARY_PREFIX = ".tmp-"

on_step: Callable[[str, Path], None] | None = None


def _step(name: str, path: Path) -> None:
    if on_step is not None:
        on_step(name, path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (a rename without it can be undone by power loss)."""
    _step("fsync-directory", path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise storage_error("open the directory", path, error) from error
    try:
        os.fsync(fd)
    except OSError as error:
        # Some FUSE and SMB mounts refuse fsync on a directory; there it is the server's business.
        if error.errno not in (22, 95):  # EINVAL, EOPNOTSUPP
            raise storage_error("sync the directory", path, error) from error
    finally:
        os.close(fd)


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `content`: temporary file → fsync → rename → fsync of the directory."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        _step("write", path)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            _step("fsync", path)
            os.fsync(fd)
        finally:
            os.close(fd)
        _step("rename", path)
        os.rename(temporary, path)
    except OSError as error:
        _remove_quietly(temporary)
        raise storage_error("write", path, error) from error
    sync_directory(path.parent)


def write_json(path: Path, value: object, *, mode: int = 0o600) -> bytes:
    """Write one JSON object durably; returns the bytes that were written."""
    content = encode_json(value)
    write(path, content, mode=mode)
    return content


def encode_json(value: object) -> bytes:
    """The form in which every JSON file of a spool is written."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def create_exclusively(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Create `path` complete and durable, or return False if it exists. Only one of several hosts wins.

    By a hard link, which is atomic on NFS too; O_EXCL is not on old servers, and would show a half-written file.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        _step("write", path)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        _step("link", path)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return os.stat(temporary).st_nlink == 2  # a repeated NFS request reports failure to the winner
        finally:
            os.unlink(temporary)
    except OSError as error:
        _remove_quietly(temporary)
        raise storage_error("create", path, error) from error
    sync_directory(path.parent)
    return True


def rename(source: Path, target: Path) -> None:
    """Move a file durably within one spool. Raises FileNotFoundError when `source` is not there."""
    _step("rename", target)
    try:
        os.rename(source, target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("move", target, error) from error
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def append_line(path: Path, line: bytes, *, mode: int = 0o600) -> None:
    """Append one line durably. A torn line of an earlier crash is closed first, so that it spoils only itself."""
    existed = path.exists()
    try:
        _step("append", path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            content = (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n"
            written = os.write(fd, content)
            if written != len(content):
                raise OSError(28, "No space left on device")
            _step("fsync", path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error("append to", path, error) from error
    if not existed:
        sync_directory(path.parent)


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """Create a directory and its missing parents, each made durable in its parent."""
    missing: list[Path] = []
    current = path
    while not current.exists():
        missing.append(current)
        current = current.parent
    for directory in reversed(missing):
        try:
            directory.mkdir(mode=mode)
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error("create the directory", directory, error) from error
        sync_directory(directory.parent)


def remove(path: Path) -> None:
    """Remove a file durably; its absence is fine."""
    _step("unlink", path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("remove", path, error) from error
    sync_directory(path.parent)


def read_json(path: Path, *, limit_bytes: int = 64 << 20) -> dict[str, Any]:
    """Read one JSON object.

    Raises FileNotFoundError, StorageError (can't be read) or ValueError (not a JSON object, or absurdly large).
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    if len(content) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes} bytes")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the write's own error is the one to report


__all__ = [
    "TEMPORARY_PREFIX",
    "StorageError",
    "append_line",
    "create_exclusively",
    "encode_json",
    "make_directory",
    "read_json",
    "remove",
    "rename",
    "sync_directory",
    "write",
    "write_json",
]
