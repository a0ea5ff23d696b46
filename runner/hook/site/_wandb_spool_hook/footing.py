"""A working directory for wandb, where the program's own was removed.

wandb asks for it when a run begins and when it ends, and raises: the run would not begin, or the rows that wandb-core
still holds would be lost. Guarantees: where the directory is there, nothing is touched; else the process stands in
another one meanwhile, and then again where it stood. Never raises itself.
"""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, Optional


@contextlib.contextmanager
def somewhere(folder: str) -> Iterator[None]:
    before = _step_over(folder) if _is_gone() else None
    try:
        yield
    finally:
        if before is not None:
            _step_back(before)


def _is_gone() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _step_over(folder: str) -> Optional[int]:
    """Where the process stood, open; None if it can't be left and found again."""
    try:
        before = os.open(".", os.O_RDONLY)
    except OSError:
        return None
    for other in (folder, "/"):
        with contextlib.suppress(OSError):
            os.chdir(other)
            return before
    os.close(before)
    return None


def _step_back(before: int) -> None:
    with contextlib.suppress(OSError):
        os.fchdir(before)
    os.close(before)
