"""Put the hook's parts around wandb, in the order in which they depend on each other."""

from __future__ import annotations

from typing import Any

from . import (
    continuation,
    counting,
    entry,
    exits,
    files,
    finishing,
    guard,
    immutable,
    initialize,
    login,
    names,
    offline,
    shared,
)
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
    _tell_what_an_older_wandb_lacks(wandb)
    launch.assert_environment(_environ_unless_disabled())
    reviver = Reviver(process)
    counting.install(reviver)
    exits.exit_code.watch_wandb()
    finishing.install(process, reviver)
    files.install(process)
    immutable.install(process)
    guard.install(process, reviver)
    names.install()
    shared.install()
    continuation.install(process)
    terminator = Terminator(process)
    terminator.install()
    initialize.install(wandb, process, terminator, reviver)
    login.install(wandb, process)
    offline.install(wandb, process)


def _tell_what_an_older_wandb_lacks(wandb: Any) -> None:
    fields = getattr(wandb.Settings, "model_fields", {})
    if "x_transaction_log_flush_interval" not in fields:
        say_once(
            "old",
            f"wandb {wandb.__version__} writes its log every 15 s: so much can be missing after a kill (and is "
            "counted); 0.31 and newer lose at most a second",
        )


def _environ_unless_disabled() -> Any:
    import os

    return {} if os.environ.get("WANDB_MODE") == "disabled" else os.environ
