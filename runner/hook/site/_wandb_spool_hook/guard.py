"""No exception from wandb's logging reaches the training program: one notice per cause, then training goes on.

Guards the calls that write. Reads that the program may rely on (``run.config["x"]``) raise what they always raised.
KeyboardInterrupt and SystemExit pass.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict

from . import core
from .anatomy import part, run_class
from .counting import NotLogging
from .notice import say_once
from .process import Process
from .revive import Reviver

Fallback = Callable[..., Any]


def _none(*args: Any, **kwargs: Any) -> None:
    return None


def _empty_list(*args: Any, **kwargs: Any) -> Any:
    return []


def _empty_dict(*args: Any, **kwargs: Any) -> Any:
    return {}


def _same_artifact(self: Any, artifact: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What log_artifact gives back: the program may go on to use it."""
    return artifact


RUN_CALLS: Dict[str, Fallback] = {
    "log": _none,
    "_log": _none,  # what the hooks of watch call
    "write_logs": _none,
    "save": _empty_list,
    "log_artifact": _same_artifact,
    "upsert_artifact": _same_artifact,
    "finish_artifact": _same_artifact,
    "log_model": _none,
    "log_code": _none,
    "alert": _none,
    "define_metric": _none,
    "watch": _none,
    "unwatch": _none,
    "mark_preempting": _none,
    "pin_config_keys": _none,
    "finish": _none,
    "__exit__": _none,
    "status": _none,
    "_config_callback": _none,
    "_summary_update_callback": _none,
    "_metric_callback": _none,
    "_telemetry_callback": _none,
    "_telemetry_flush": _none,
    "_console_callback": _none,
    "_console_raw_callback": _none,
    "_tensorboard_callback": _none,
    "_publish_file": _none,
}
RUN_SETTERS = ("name", "notes", "tags")
CONFIG_CALLS = ("update", "__setitem__", "__setattr__", "setdefaults", "update_locked", "merge_locked", "persist")


def install(process: Process, reviver: Reviver) -> None:
    Config, Run = part("wandb_config").Config, run_class()
    for name, fallback in RUN_CALLS.items():
        if name in vars(Run):
            setattr(Run, name, guarded(getattr(Run, name), fallback))
    for name in RUN_SETTERS:
        found = vars(Run).get(name)
        if isinstance(found, property) and found.fset is not None:
            setattr(Run, name, found.setter(guarded(found.fset, _none)))
    for name in CONFIG_CALLS:
        if name in vars(Config):
            setattr(Config, name, guarded(getattr(Config, name), _none))
    _guard_summary(Run, process, reviver)


def guarded(original: Callable[..., Any], fallback: Fallback) -> Callable[..., Any]:
    name = getattr(original, "__name__", "?")

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except NotLogging:
            return fallback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - promise 1: logging can't stop training
            tell(name, error)
            return fallback(*args, **kwargs)

    return call


def _guard_summary(Run: Any, process: Process, reviver: Reviver) -> None:
    """Reading the summary asks wandb-core: a program that compares with its best value must get an answer."""
    original = Run._summary_get_current_summary_callback

    @functools.wraps(original)
    def current(self: Any) -> Any:
        session = process.of(self)
        if session is None:
            return original(self)
        for _ in range(2):
            if session.sender.stalled or core.is_stopped():
                break
            if core.is_dead():
                session.fail("wandb-core died")
            if session.broken is not None and not reviver.revive(session):
                break
            try:
                return original(self)
            except Exception as error:  # noqa: BLE001 - promise 1
                session.note(error)
        return guarded(session.remembered_summary, _empty_dict)()

    Run._summary_get_current_summary_callback = current


def tell(name: str, error: Exception) -> None:
    lines = str(error).splitlines() or [""]
    cause = f"{type(error).__name__}: {lines[0]}"
    say_once(cause, f"wandb's {name} failed ({cause}); training goes on")
