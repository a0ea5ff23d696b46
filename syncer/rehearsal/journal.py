"""An append-only file of JSON events: what the server knows besides lines and blobs.

`append` returns when the event is in the file, so the death of the process loses nothing that was acknowledged.
An event torn by a death (its writer was never answered) is cut away at the next start. One process owns a journal:
a second one gets an OSError that says so.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Events in the order in which they happened."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self.path, self.fsync = path, fsync
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise OSError(error.errno, "another rehearsal server uses this directory", str(path.parent)) from error

    def replay(self) -> Iterator[dict[str, Any]]:
        """Every whole event; what is torn at the end is cut away."""
        good_bytes = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                good_bytes += len(line)
                yield json.loads(line)
        os.ftruncate(self._fd, good_bytes)

    def append(self, event: Mapping[str, Any]) -> None:
        blob = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        size_bytes = os.fstat(self._fd).st_size
        if os.write(self._fd, blob) != len(blob):
            os.ftruncate(self._fd, size_bytes)
            raise OSError(f"short write to {self.path}")
        if self.fsync:
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1  # the number may soon be another file's: whoever still appends must fail
