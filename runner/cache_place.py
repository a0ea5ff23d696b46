"""Where wandb's cache goes when the home can't be written: older wandb dies of that in `wandb.Artifact(…)`.

`WANDB_CACHE_DIR` is the user's, and so is a cache in a home that can be written: then nothing is changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def cache_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable to set, or nothing. Fails never."""
    if environ.get("WANDB_CACHE_DIR") or _can_be_made(_usual(environ)):
        return {}
    return {"WANDB_CACHE_DIR": str(_private(Path(tempfile.gettempdir()) / f"wandb-cache-{os.getuid()}"))}


def _usual(environ: Mapping[str, str]) -> Path:
    """Where wandb looks for it."""
    named = environ.get("XDG_CACHE_HOME")
    return Path(named or Path(environ.get("HOME") or os.path.expanduser("~")) / ".cache") / "wandb"


def _can_be_made(directory: Path) -> bool:
    nearest = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    return os.access(nearest, os.W_OK | os.X_OK)


def _private(directory: Path) -> Path:
    """A directory of ours alone; in a place where everybody may write, another's is not used."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if status.st_uid == os.getuid() and not directory.is_symlink() and not status.st_mode & 0o077:
            return directory
        return Path(tempfile.mkdtemp(prefix="wandb-cache-"))
    except OSError:
        return directory
