"""The code with which the program is about to exit: ``sys.exit``, an uncaught exception, the plain end.

``raise SystemExit(n)`` is seen only where the interpreter can report it (3.12 and newer). Elsewhere a plain end is not
``certain``, and where the launcher saw the process end otherwise, that is the truth.
"""

from __future__ import annotations

import sys
from typing import Any, Optional

from .anatomy import part


class ExitCode:
    """What is known of the code that this program is about to exit with."""

    def __init__(self) -> None:
        self.code = 0
        self.certain = False
        self.ending = False  # the interpreter is on its way out
        self.patience_s = float("inf")  # how long the end may take; SIGTERM shortens it

    def watch(self) -> None:
        """Once, early: ``from sys import exit`` must find the watched one."""
        self._watch_exit()
        self._watch_unwinding()

    def watch_wandb(self) -> None:
        """wandb's own exit hooks see uncaught exceptions; a hook of ours beside them would print twice."""
        ExitHooks = part("lib.exit_hooks").ExitHooks
        original = ExitHooks.exc_handler

        def exc_handler(hooks: Any, kind: Any, error: BaseException, trace: Any) -> Any:
            # As wandb records it.
            self.code = 255 if isinstance(error, KeyboardInterrupt) else 1
            return original(hooks, kind, error, trace)

        ExitHooks.exc_handler = exc_handler

    def _watch_exit(self) -> None:
        original = sys.exit

        def exit(status: Any = None) -> None:
            self.code = _as_int(status)
            original(status)

        exit.__doc__ = original.__doc__
        sys.exit = exit  # type: ignore[assignment]

    def _watch_unwinding(self) -> None:
        """See a SystemExit leave the outermost frame; ``raise SystemExit(n)`` passes neither of the two above."""
        monitoring = getattr(sys, "monitoring", None)
        if monitoring is None:
            return
        tool = 4  # 0, 1, 2 and 5 are given to debuggers, coverage, profilers and optimizers
        if monitoring.get_tool(tool) is not None:
            return
        monitoring.use_tool_id(tool, "wandb-spool")

        def unwound(code: Any, offset: int, error: BaseException) -> None:
            if isinstance(error, SystemExit) and sys._getframe(1).f_back is None:
                self.code = _as_int(error.code)

        monitoring.register_callback(tool, monitoring.events.PY_UNWIND, unwound)
        monitoring.set_events(tool, monitoring.events.PY_UNWIND)
        self.certain = True


def code_of(error: Optional[BaseException], otherwise: int) -> int:
    """The code of a process that ends with this exception on its way out."""
    if error is None:
        return otherwise
    return _as_int(error.code) if isinstance(error, SystemExit) else 1


def _as_int(status: Any) -> int:
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


exit_code = ExitCode()
