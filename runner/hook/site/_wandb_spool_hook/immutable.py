"""Artifact files that wandb does not copy (``policy="immutable"``) are copied into the launch when they are logged.

wandb notes only the path that it was given, even a relative one; what stands there when the artifact is uploaded, days
later and on another host, would go up, or nothing. Fails softly: a file that can't be copied keeps its absolute path.
"""

from __future__ import annotations

import functools
import os
import tempfile
from typing import Any

from .anatomy import run_class
from .files import copy
from .notice import say_once
from .process import Process


def install(process: Process) -> None:
    Run = run_class()
    original = getattr(Run, "_log_artifact", None)
    if original is None:
        return

    @functools.wraps(original)
    def _log_artifact(self: Any, artifact_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        if process.of(self) is not None:
            _bring_in(process, artifact_or_path)
        return original(self, artifact_or_path, *args, **kwargs)

    Run._log_artifact = _log_artifact


def _bring_in(process: Process, artifact: Any) -> None:
    manifest = getattr(artifact, "manifest", None)
    for entry in list(getattr(manifest, "entries", {}).values()):
        path = getattr(entry, "local_path", None)
        if not path or process.launch.contains(str(path)):
            continue
        entry.local_path = os.path.abspath(str(path))
        try:
            entry.local_path = _copied(process, entry.local_path)
        except OSError as error:
            say_once(
                f"immutable {error.errno}",
                f"can't copy {entry.local_path} into the spool: {error}; it must stay as it is until the run is sealed",
            )


def _copied(process: Process, path: str) -> str:
    folder = os.path.join(process.launch.data_dir, "artifacts", "staging")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd, target = tempfile.mkstemp(prefix="immutable-", dir=folder)
    os.close(fd)
    os.unlink(target)
    copy(path, target)
    return target
