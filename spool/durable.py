"""Durable writes: the only module that makes a file appear, move or vanish in a spool.

Guarantee: after `write` returned, the new content survives power loss; before, a reader (and a crash) sees the old
content or none, never a mixture. Fails with `StorageError`, which names operation, path and mend; a failed write leaves
no temporary file behind where the file system still lets us remove it.

A network file system may repeat a request whose answer was lost and then report failure to the winner: after ENOENT,
EEXIST and the like every step looks at what is there before it concludes that it failed.

Modes: 0700 and 0600; below a setgid directory (a group's spool) 2770 and 0660, whatever the umask.

`on_step` is a seam for attacks: when set, it is called with the name of each step as it is about to happen, so that a
test can kill the process between any two of them.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

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
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise storage_error("sync the directory", path, error) from error
    finally:
        os.close(fd)


def write(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace `path` by `content`: temporary file → fsync → rename → fsync of the directory."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        _step("write", path)
        _write_new(temporary, content, mode, path)
        _step("rename", path)
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            if not _holds(path, content):
                raise
    except OSError as error:
        _remove_quietly(temporary)
        raise storage_error("write", path, error) from error
    sync_directory(path.parent)


def _write_new(temporary: Path, content: bytes, mode: int | None, path: Path) -> None:
    """All of `content`, fsynced, in a file that was not there before."""
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        wanted = mode if mode is not None else _file_mode(path.parent)
        if wanted != 0o600:
            os.fchmod(fd, wanted)
        view = memoryview(content)
        while view:  # a disk that gets full takes the first part of a write without an error
            view = view[os.write(fd, view) :]
        _step("fsync", path)
        os.fsync(fd)
    finally:
        os.close(fd)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _shared(directory: Path) -> bool:
    return bool(os.stat(directory).st_mode & stat.S_ISGID)


def _file_mode(directory: Path) -> int:
    return 0o660 if _shared(directory) else 0o600


def write_json(path: Path, value: object, *, mode: int | None = None) -> bytes:
    """Write one JSON object durably; returns the bytes that were written."""
    content = encode_json(value)
    write(path, content, mode=mode)
    return content


def encode_json(value: object) -> bytes:
    """The form in which every JSON file of a spool is written.

    What is no text in UTF-8 (an argument or a path with odd bytes) becomes the `\\udcXX` that JSON knows for it.
    """
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode("utf-8", "backslashreplace")


def decode_json(content: bytes) -> dict[str, Any]:
    """One JSON object; raises ValueError for anything else (NaN is not JSON and could not be written again)."""
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def create_exclusively(path: Path, content: bytes, *, mode: int | None = None) -> bool:
    """Create `path` complete and durable, or return False if it exists. Only one of several hosts wins.

    By a hard link, which is atomic on NFS too; O_EXCL is not on old servers, and would show a half-written file.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        _step("write", path)
        _write_new(temporary, content, mode, path)
        _step("link", path)
        try:
            os.link(temporary, path)
        except FileExistsError:
            if os.stat(temporary).st_nlink != 2:  # a repeated NFS request reports failure to the winner
                return False
    except OSError as error:
        raise storage_error("create", path, error) from error
    finally:
        _remove_quietly(temporary)
    sync_directory(path.parent)
    return True


def rename(source: Path, target: Path) -> None:
    """Move a file durably within one spool. Raises FileNotFoundError when `source` is not there.

    The caller knows how to recognize its file at `target`, should a network file system say so to the winner; it then
    calls `sync_move`.
    """
    _step("rename", target)
    try:
        os.rename(source, target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("move", target, error) from error
    sync_move(source, target)


def sync_move(source: Path, target: Path) -> None:
    """Make a rename durable, the new name before the old one's end."""
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def append_line(path: Path, line: bytes, *, mode: int | None = None) -> None:
    """Append one line durably. A torn line of an earlier crash is closed first, so that it spoils only itself."""
    existed = path.exists()
    try:
        _step("append", path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not existed:
                os.fchmod(fd, mode if mode is not None else _file_mode(path.parent))
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            content = (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n"
            written = os.write(fd, content)
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _step("fsync", path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error("append to", path, error) from error
    if not existed:
        sync_directory(path.parent)


def make_directory(path: Path, *, new: bool = False) -> None:
    """Create a directory and its missing parents, each made durable in its parent.

    With `new` the last one must not be there already: FileExistsError.
    """
    missing: list[Path] = []
    current = path
    try:
        while not current.exists():
            missing.append(current)
            current = current.parent
    except OSError as error:
        raise storage_error("look for the directory", current, error) from error
    if new and not missing:
        raise FileExistsError(path)
    for directory in reversed(missing):
        _step("mkdir", directory)
        try:
            directory.mkdir(mode=0o700)
            if _shared(directory.parent):
                directory.chmod(0o2770)
        except FileExistsError:
            if new and directory == path:
                raise
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


def read_bytes(path: Path, *, limit_bytes: int = 64 << 20) -> bytes:
    """A whole small file.

    Raises FileNotFoundError, StorageError (can't be read) or ValueError (no regular file, or absurdly large).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place must not block us
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("not a regular file")
            with os.fdopen(fd, "rb", closefd=False) as stream:
                content = stream.read(limit_bytes + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    if len(content) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes} bytes")
    return content


def read_json(path: Path, *, limit_bytes: int = 64 << 20) -> dict[str, Any]:
    """Read one JSON object.

    Raises FileNotFoundError, StorageError (can't be read) or ValueError (not a JSON object, or absurdly large).
    """
    return decode_json(read_bytes(path, limit_bytes=limit_bytes))


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # it never came to be, or the operation's own error is the one to report


__all__ = [
    "TEMPORARY_PREFIX",
    "StorageError",
    "append_line",
    "create_exclusively",
    "decode_json",
    "encode_json",
    "make_directory",
    "read_bytes",
    "read_json",
    "remove",
    "rename",
    "sync_directory",
    "sync_move",
    "write",
    "write_json",
]
