"""Put the hook's parts around wandb, in the order in which they depend on each other."""

from __future__ import annotations

from typing import Any

from . import counting, entry, exits, guard, initialize, login, names
from .launch import Launch
from .notice import say_once
from .process import Process
from .terminate import Terminator


def patch(wandb: Any, launch: Launch) -> None:
    process = Process(launch)
    try:
        entry.leave_marker(launch)
    except OSError as error:
        say_once("marker", f"can't write to the spool at {launch.path}: {error}; training goes on")
    launch.assert_environment(_environ_unless_disabled())
    counting.install()
    exits.install(process)
    guard.install(process)
    names.install()
    terminator = Terminator(process)
    terminator.install()
    initialize.install(wandb, process, terminator)
    login.install(wandb, process)


def _environ_unless_disabled() -> Any:
    import os

    return {} if os.environ.get("WANDB_MODE") == "disabled" else os.environ
