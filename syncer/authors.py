"""Whose run it is: the owner of its launch directory, by the file system and not by what is written in it.

In a spool of one's own every launch is of its owner; another's is refused. In a shared spool the author is recorded,
an entry stands for the fragment that it is named after and for no other, and of no launch, whoever it seems to belong
to (a member can put a link to anybody's in its place), is anything read but the bytes that its manifest lists, through
no link, into a private copy that is compared with the manifest while it is made: a push sees only that. So nobody can
make the syncer send what they may not read themselves.
Fails with `DeliveryError` (unsafe, tampered, interrupted).
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from wandb_spool.spool.capture import open_below
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.layout import launch_month
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
    """Whether a launch directory is somebody else's, or lies where somebody else could have put it."""
    try:
        if _is_shared(_root(launch)):
            return True
        return launch.lstat().st_uid != os.geteuid()
    except OSError:
        return False  # it is gone: that is told elsewhere


def _root(launch: Path) -> Path:
    """The spool in which a launch lies: `<spool>/runs/<month>/<launch>`."""
    return launch.parents[2]


def _is_shared(root: Path) -> bool:
    return bool(root.stat().st_mode & stat.S_IWGRP)


def require_known_author(spool: Spool, entry: Entry) -> None:
    """Refuse another's launch in a spool that is not shared. The spool's own owner is nobody else, also for root.

    In a shared one refuse an entry that leads to another's fragment, by its path or through a link.
    """
    launch = entry.launch_directory(spool.root)
    if spool.group is not None:
        _require_own_place(spool.root, entry)
        return
    if not is_foreign(launch):
        return
    if launch.lstat().st_uid != spool.root.lstat().st_uid:
        raise DeliveryError(
            Failure.UNSAFE, f"its launch directory belongs to {author(launch)}, and this spool is not a shared one"
        )


def _require_own_place(root: Path, entry: Entry) -> None:
    wanted = f"runs/{launch_month(entry.launch)}/{entry.launch}/wandb/{entry.fragment}"
    if entry.path != wanted:
        raise DeliveryError(Failure.UNSAFE, f"its entry leads to {entry.path}, which is not the fragment it stands for")
    at = root
    for part in Path(entry.path).parts:
        at = at / part
        if at.is_symlink():
            raise DeliveryError(Failure.UNSAFE, f"{at.relative_to(root)} is a link, in a spool that others write to")


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
        root = _root(launch)
        shared = _is_shared(root)  # where others can swap a directory for a link, none on the way is followed
        fd = open_below(root, f"{launch.relative_to(root)}/{item.path}") if shared else open_below(launch, item.path)
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
