"""Bytes by their SHA-256, in a directory; complete or absent.

An upload is received into `incoming/` and renamed to its digest when it is whole, so a reader never sees half of it
and the same content is kept once. What was being received when the process died is thrown away at the next start.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Blob:
    """Stored bytes: what they are, not where they are used."""

    sha256: str
    md5: str  # base64, as W&B writes it
    size_bytes: int

    @property
    def md5_hex(self) -> str:
        return base64.b64decode(self.md5).hex()


class Upload:
    """Bytes that are arriving; `finish` makes them a blob, `discard` forgets them."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._path = blobs.incoming / secrets.token_hex(12)
        self._file = self._path.open("wb")
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        self._md5.update(chunk)
        self.size_bytes += len(chunk)

    def finish(self) -> Blob:
        self._file.flush()
        if self._blobs.fsync:
            os.fsync(self._file.fileno())
        self._file.close()
        md5 = base64.b64encode(self._md5.digest()).decode()
        blob = Blob(self._sha256.hexdigest(), md5, self.size_bytes)
        target = self._blobs.path(blob.sha256)
        target.parent.mkdir(exist_ok=True)
        self._path.replace(target)
        return blob

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class Blobs:
    """The store: one file per content."""

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self.root, self.incoming, self.fsync = root, root / "incoming", fsync
        self.incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self.incoming.iterdir():
            leftover.unlink()

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def receive(self) -> Upload:
        return Upload(self)

    def put(self, chunks: Iterable[bytes]) -> Blob:
        upload = self.receive()
        for chunk in chunks:
            upload.write(chunk)
        return upload.finish()

    def join(self, parts: Iterable[str]) -> Blob:
        """The concatenation of blobs, as a blob."""
        upload = self.receive()
        for sha256 in parts:
            with self.path(sha256).open("rb") as file:
                while chunk := file.read(1 << 20):
                    upload.write(chunk)
        return upload.finish()
