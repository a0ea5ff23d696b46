"""Where wandb keeps the parts that the hook touches: the one module that knows its insides.

Returned as ``Any``: their types differ from release to release, and the hook replaces what it finds.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def module() -> Any:
    return sys.modules["wandb"]


def part(name: str) -> Any:
    """A module of wandb, e.g. ``part("wandb_init")``."""
    return importlib.import_module("wandb.sdk." + name)


def messages(name: str = "wandb_internal_pb2") -> Any:
    """The protobuf classes that this wandb was built with."""
    return importlib.import_module("wandb.proto." + name)


def run_class() -> Any:
    return part("wandb_run").Run


def interface_of(run: Any) -> Any:
    """What the run speaks through; None for a disabled run."""
    found = getattr(run, "_interface", None)
    if found is None:  # before 0.25
        found = getattr(getattr(run, "_backend", None), "interface", None)
    return found


def singleton() -> Any:
    """wandb's session in this process, or None."""
    return getattr(part("wandb_setup"), "_singleton", None)
