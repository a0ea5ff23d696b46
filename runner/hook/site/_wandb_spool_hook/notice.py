"""One clear line on stderr per cause, never a flood.

Written to the file descriptor itself: wandb wraps ``sys.stderr``, and a notice about a dead wandb must not go through
wandb. It does not obey WANDB_SILENT.
"""

from __future__ import annotations

import os
import threading
from typing import Set

_said: Set[str] = set()
_lock = threading.RLock()  # reentrant: a signal handler may speak while its thread speaks


def say(text: str) -> None:
    try:
        os.write(2, ("wandb-spool: " + text + "\n").encode("utf-8", "replace"))
    except OSError:
        pass  # no stderr: nobody to tell


def say_once(cause: str, text: str) -> bool:
    with _lock:
        if cause in _said:
            return False
        _said.add(cause)
    say(text)
    return True


def forget(cause: str) -> None:
    """The cause is gone; should it come back, it is news again."""
    with _lock:
        _said.discard(cause)
