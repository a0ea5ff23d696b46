"""A signal handler must not run between the count of a row and its sending: the row would be told as lost; nor during
``finish``: the run would be without its exit record.

Handlers run in the main thread only, between two of its instructions. What arrives while it is inside such a section is
done when the section ends. Sections are bounded (``sender.PATIENCE_S``, the time that a revival takes, or the patience
of ``finish``).
"""

from __future__ import annotations

import threading
from typing import Callable, Optional

_main = threading.main_thread().ident
_depth = 0
_waiting: Optional[Callable[[], None]] = None


def enter() -> None:
    global _depth
    if threading.get_ident() == _main:
        _depth += 1


def leave() -> None:
    global _depth, _waiting
    if threading.get_ident() != _main:
        return
    _depth -= 1
    if _depth == 0 and _waiting is not None:
        action, _waiting = _waiting, None
        action()


def run(action: Callable[[], None]) -> None:
    """Now, or when the section that was interrupted ends."""
    global _waiting
    if _depth:
        _waiting = action
    else:
        action()
