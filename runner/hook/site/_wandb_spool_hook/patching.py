"""Put the hook's parts around wandb, in the order in which they depend on each other."""

from __future__ import annotations

from typing import Any

from . import counting, entry, exits, files, finishing, guard, initialize, login, names, offline
from .launch import Launch
from .notice import say_once
from .process import Process
from .revive import Reviver
from .terminate import Terminator


def patch(wandb: Any, launch: Launch) -> None:
    process = Process(launch)
    try:
        entry.leave_marker(launch)
    except OSError as error:
        say_once("marker", f"can't write to the spool at {launch.path}: {error}; training goes on")
    launch.assert_environment(_environ_unless_disabled())
    reviver = Reviver(process)
    counting.install(reviver)
    exits.exit_code.watch_wandb()
    finishing.install(process, reviver)
    files.install(process)
    guard.install(process, reviver)
    names.install()
    terminator = Terminator(process)
    terminator.install()
    initialize.install(wandb, process, terminator, reviver)
    login.install(wandb, process)
    offline.install(wandb, process)


def _environ_unless_disabled() -> Any:
    import os

    return {} if os.environ.get("WANDB_MODE") == "disabled" else os.environ
