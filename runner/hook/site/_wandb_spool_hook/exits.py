"""How a run ends with the program: ``sys.exit``, an uncaught exception, the plain end.

Guarantees: a run that is still open when the program ends is finished, with the exit code of the program as far as
Python tells it: ``raise SystemExit(n)`` is seen only where the interpreter can report it (3.12 and newer), else the
launcher's record of the process is the truth.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any, Optional

from .anatomy import part, run_class
from .process import Process, Session


class ExitCode:
    """What is known of the code that this program is about to exit with."""

    def __init__(self) -> None:
        self.code = 0

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


def _as_int(status: Any) -> int:
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


exit_code = ExitCode()


def finish_at_exit(process: Process) -> None:
    """Run before wandb's own exit handler: the one that was registered last runs first."""
    atexit.unregister(finish_all)
    atexit.register(finish_all, process)


def finish_all(process: Process, code: Optional[int] = None) -> None:
    for session in process.unfinished():
        session.run.finish(exit_code=exit_code.code if code is None else code)


def install(process: Process) -> None:
    Run = run_class()
    exit_code.watch_wandb()
    original = Run._finish

    def _finish(self: Any, exit_code: Optional[int] = None) -> Any:
        session = process.of(self)
        try:
            return original(self, exit_code)
        finally:
            if session is not None and not session.finished:
                _end(session, exit_code)

    Run._finish = _finish


def _end(session: Session, asked: Optional[int]) -> None:
    session.finished = True
    code = asked or getattr(session.run, "_exit_code", None) or 0
    session.fragment.end("finished", code)
