"""Where wandb keeps the parts that the hook touches: the one module that knows its insides.

Returned as ``Any``: their types differ from release to release, and the hook replaces what it finds.
"""

from __future__ import annotations

import importlib
from typing import Any


def part(name: str) -> Any:
    """A module of wandb, e.g. ``part("wandb_init")``."""
    return importlib.import_module("wandb.sdk." + name)


def run_class() -> Any:
    return part("wandb_run").Run


def singleton() -> Any:
    """wandb's session in this process, or None."""
    return getattr(part("wandb_setup"), "_singleton", None)
