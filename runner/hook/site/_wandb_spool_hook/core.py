"""The wandb-core process behind the runs: does it live, and how to be rid of it.

A core that a parent process started (WANDB_SERVICE) is not ours: nothing is known about it but that it fails.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from typing import Any, Optional

from .anatomy import part, singleton


def _connection() -> Any:
    session = singleton()
    return getattr(session, "_connection", None)


def _popen() -> Any:
    service = getattr(_connection(), "_proc", None)
    for name in ("_process", "_internal_proc"):
        found = getattr(service, name, None)
        if found is not None:
            return found
    return None


def pid() -> Optional[int]:
    """Of our own core, dead or alive."""
    popen = _popen()
    return popen.pid if popen is not None else None


def is_dead() -> bool:
    popen = _popen()
    return popen is not None and popen.poll() is not None


def is_stopped() -> bool:
    """Stopped by a signal (SIGSTOP, a debugger): it may go on at any time."""
    number = pid()
    try:
        with open(f"/proc/{number}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def kill() -> None:
    popen = _popen()
    if popen is None or popen.poll() is not None:
        return
    try:
        os.kill(popen.pid, signal.SIGKILL)
        popen.wait(timeout=5)
    except Exception:  # noqa: BLE001, S110 - a core in uninterruptible sleep: it is left behind
        pass


def guard_teardown() -> None:
    """wandb's exit handler speaks to a core that may be dead: Python would print its exception."""
    for name in ("lib.service.service_connection", "lib.service_connection"):
        try:
            owner = part(name).ServiceConnection
        except (ImportError, AttributeError):
            continue
        _swallow(owner, "teardown")


def _swallow(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception:  # noqa: BLE001 - promise 1; the runs were finished before
            return 0

    setattr(owner, name, call)


def quiet_asyncio() -> None:
    """asyncio prints a line for each write to a broken connection; we say it once."""
    logging.getLogger("asyncio").addFilter(lambda record: record.msg != "socket.send() raised exception.")


def abandon() -> None:
    """Forget the session with a dead core, as if wandb had not been used yet; its settings are kept."""
    setup, session, connection = part("wandb_setup"), singleton(), _connection()
    _restore_exit_hooks()
    cleanup = getattr(connection, "_cleanup", None)
    if cleanup is not None:
        cleanup()  # wandb's exit handler, which would speak to the dead
    os.environ.pop("WANDB_SERVICE", None)
    setup._singleton = None
    settings = getattr(session, "_settings", None)
    if settings is not None and hasattr(setup, "_WandbSetup"):
        _carry_settings(setup, settings)


def _carry_settings(setup: Any, settings: Any) -> None:
    """What ``wandb.setup`` was told holds for the next session, too."""
    try:
        fresh = setup.singleton()
        if getattr(fresh, "_settings", None) is None:
            fresh._load_settings(system_settings_path=None, disable_sagemaker=True)
        fresh._settings = settings
    except Exception:  # noqa: BLE001, S110 - an older wandb: it reads the environment again
        pass


def _restore_exit_hooks() -> None:
    """Each new service wraps these again; two layers would print an exception twice."""
    owner = getattr(sys.excepthook, "__self__", None)
    if type(owner).__name__ == "ExitHooks":
        sys.excepthook = getattr(owner, "_orig_excepthook", None) or sys.__excepthook__
    owner = getattr(sys.exit, "__self__", None)
    if type(owner).__name__ == "ExitHooks":
        sys.exit = getattr(owner, "_orig_exit", sys.exit)
