"""A run that somebody else logs into as well: its rows can't be counted.

wandb lets a forked child, or a spawned one that was given the run object, attach to its parent's run; and with
``sync_tensorboard`` wandb-core itself makes rows of TensorBoard's event files. What comes from there meets the
program's own calls in wandb-core in an order that nobody here knows, and becomes one sequence of steps with them. The
first such row leaves the empty file ``shared`` beside the log: from then on ``rows_logged`` is *unknown*.
"""

from __future__ import annotations

import os
from typing import Any

from .anatomy import interface_of, run_class
from .notice import say_once

ATTRIBUTE = "_wandb_spool_attached"  # on the interface of an attached run: its run directory, until that is marked


def install() -> None:
    Run = run_class()
    original = getattr(Run, "_on_attach", None)
    if original is None:
        return

    def _on_attach(self: Any) -> None:
        original(self)
        setattr(interface_of(self), ATTRIBUTE, os.path.dirname(self._settings.sync_file))

    Run._on_attach = _on_attach


def row_of(interface: Any) -> None:
    """A row goes through an interface that no run of this process has; ours only if it was attached."""
    run_dir = getattr(interface, ATTRIBUTE, None)
    if run_dir is None:
        return
    setattr(interface, ATTRIBUTE, None)
    mark(run_dir)


def mark(run_dir: str) -> None:
    try:
        os.close(os.open(_mark(run_dir), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        say_once("shared", f"can't note in {run_dir} that others log into this run as well: {error}")


def is_shared(run_dir: str) -> bool:
    return os.path.exists(_mark(run_dir))


def _mark(run_dir: str) -> str:
    return os.path.join(run_dir, "shared")
