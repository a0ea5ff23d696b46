"""Durable write, a copy of the few lines of spool/durable.py: the hook may import nothing of ours.

Temporary file in the same directory, fsync, rename, fsync of the directory: complete or absent. Raises OSError.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any, Dict


def write_json(path: str, document: Dict[str, Any]) -> None:
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, ".tmp-" + os.urandom(6).hex())
    shared = bool(os.stat(folder).st_mode & 0o2000)  # a group's spool is setgid
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    try:
        _write_file(temporary, text.encode("utf-8", "replace"), 0o660 if shared else 0o600)
        os.rename(temporary, path)
    except OSError:
        _remove_quietly(temporary)
        raise
    _sync_directory(folder)


def _write_file(path: str, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, mode)
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it never came to be


def _sync_directory(folder: str) -> None:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    except OSError as error:
        # Some FUSE and SMB mounts refuse fsync on a directory; there it is the server's business.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(directory)
