"""Whose run it is: the owner of its launch directory, by the file system and not by what is written in it.

In a spool of one's own every launch is of its owner; another's is refused. In a shared spool the author is recorded,
and of another's launch nothing is read but the bytes that its manifest lists, through no link, into a private copy that
is compared with the manifest while it is made: a push sees only that. So nobody can make the syncer send what they may
not read themselves.
Fails with `DeliveryError` (unsafe, tampered, interrupted).
"""

from __future__ import annotations

import hashlib
import os
import pwd
import tempfile
from collections.abc import Callable
from pathlib import Path

from wandb_spool.spool.capture import open_below
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.manifest import Manifest, SealedFile
from wandb_spool.spool.queue import Spool

from .failures import DeliveryError, Failure

_CHUNK_BYTES = 1 << 20


def author(launch: Path) -> str:
    """The name of a launch directory's owner. Raises OSError."""
    uid = launch.lstat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_foreign(launch: Path) -> bool:
    """Whether a launch directory is somebody else's."""
    try:
        return launch.lstat().st_uid != os.geteuid()
    except OSError:
        return False  # it is gone: that is told elsewhere


def require_known_author(spool: Spool, entry: Entry) -> None:
    """Refuse another's launch in a spool that is not shared. The spool's own owner is nobody else, also for root."""
    launch = entry.launch_directory(spool.root)
    if spool.group is not None or not is_foreign(launch):
        return
    if launch.lstat().st_uid != spool.root.lstat().st_uid:
        raise DeliveryError(
            Failure.UNSAFE, f"its launch directory belongs to {author(launch)}, and this spool is not a shared one"
        )


def private_copy(launch: Path, manifest: Manifest, target: Path, tick: Callable[[], None] = lambda: None) -> Path:
    """Copy what a manifest lists, following no link, each file compared while it is read; returns `target`."""
    for item in manifest.files:
        if item.kind != "debug":
            tick()
            _copy(launch, item, target / item.path, tick)
    return target


def private_log(launch: Path, manifest: Manifest, directory: Path, tick: Callable[[], None] = lambda: None) -> Path:
    """A copy of a fragment's log alone, in a directory of its own below `directory`, compared while it is made."""
    sealed = next((item for item in manifest.files if item.kind == "log"), None)
    if sealed is None:
        raise DeliveryError(Failure.DAMAGED, "the manifest lists no log")
    target = Path(tempfile.mkdtemp(prefix="log-", dir=directory)) / "log"
    _copy(launch, sealed, target, tick)
    return target


def _copy(launch: Path, item: SealedFile, target: Path, tick: Callable[[], None]) -> None:
    try:
        fd = open_below(launch, item.path)
    except (ValueError, NotADirectoryError) as error:
        raise DeliveryError(Failure.UNSAFE, f"{item.path} is no regular file since the seal") from error
    except FileNotFoundError as error:
        raise DeliveryError(Failure.TAMPERED, f"{item.path} is gone since the seal") from error
    except OSError as error:
        raise DeliveryError(Failure.INTERRUPTED, f"{item.path} can't be read: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(fd, "rb", buffering=0) as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            copy.write(chunk)
            tick()
    if size != item.size_bytes or digest.hexdigest() != item.sha256:
        raise DeliveryError(Failure.TAMPERED, f"{item.path} differs from its manifest")
