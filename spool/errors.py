"""What can go wrong with a spool, as one small tree.

Every error says what was tried, on which path, what happened and how to mend it; `str()` of it is the one line that a
person sees. `transient` tells a caller whether trying again can help: by class, never by reading the message.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class SpoolError(Exception):
    """Base of all errors of the spool. `exit_code` is the command line's answer (DESIGN, exit codes)."""

    transient = False
    exit_code = 1

    def __init__(self, what: str, *, path: Path | str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.path = None if path is None else Path(path)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        where = "" if self.path is None else f": {self.path}"
        mend = "" if self.hint is None else f" · {self.hint}"
        return f"{self.what}{where}{mend}"


class UsageError(SpoolError):
    """The person asked for something that can't be: a path that isn't there, a name that matches nothing."""

    exit_code = 2


class SpoolMissingError(UsageError):
    """The directory does not exist or is not a spool."""


class SpoolFormatError(SpoolError):
    """The spool is of a newer format, or its spool.json can't be read."""

    exit_code = 4


class DamagedError(SpoolError):
    """An entry, manifest or receipt is not what format 1 says."""

    exit_code = 4


class StorageError(SpoolError):
    """The file system refused: full, read-only, quota, permission, input/output error."""

    @property
    def full(self) -> bool:
        return getattr(self.__cause__, "errno", None) in FULL_ERRNOS


class TransitionError(SpoolError):
    """A move that the transition table does not allow."""


class LostRaceError(SpoolError):
    """Somebody else moved the entry first. Nothing is wrong; look again."""

    transient = True


FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

_HINTS = {
    errno.ENOSPC: "the disk is full (check `df -h` and `df -i`): free some room, nothing that is sealed is lost",
    errno.EDQUOT: "your quota is used up: free some room or ask for more, nothing that is sealed is lost",
    errno.EROFS: "the file system is read-only: mount it writable or choose another directory with --spool",
    errno.EACCES: "no permission: choose another directory with --spool or ask its owner",
    errno.EPERM: "not permitted: choose another directory with --spool or ask its owner",
    errno.EIO: "the disk reports an input/output error: look at `dmesg` and move the spool",
}


def storage_error(operation: str, path: Path, cause: OSError) -> StorageError:
    """Wrap an `OSError` with the operation, the path and a hint for its errno."""
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    error = StorageError(f"can't {operation}: {reason}", path=path, hint=_HINTS.get(cause.errno or 0))
    error.__cause__ = cause
    return error
