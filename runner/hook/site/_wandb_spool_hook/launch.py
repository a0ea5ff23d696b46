"""Which launch this process belongs to, as the launcher's environment tells it."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Mapping, Optional


class Launch:
    """Paths of the launch and what the launcher wants to see in its entries."""

    def __init__(self, spool: str, path: str, defaults: Dict[str, Any], work: Optional[str] = None) -> None:
        self.spool = spool
        self.path = path
        self.defaults = defaults
        self.work = work or path  # where wandb writes: elsewhere than in the launch directory only with --stage

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Optional[Launch]:
        path = environ.get("WANDB_SPOOL_LAUNCH")
        if not path:
            return None
        path = os.path.abspath(path)
        # <spool>/runs/<YYYYMM>/<launch>: the spool can be told from the launch, should the variable be missing.
        spool = environ.get("WANDB_SPOOL_DIR") or os.path.dirname(os.path.dirname(os.path.dirname(path)))
        work = environ.get("WANDB_SPOOL_STAGE")
        return cls(os.path.abspath(spool), path, _entry_defaults(environ), os.path.abspath(work) if work else None)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def data_dir(self) -> str:
        return os.path.join(self.work, "data")

    def contains(self, path: str) -> bool:
        return os.path.realpath(path).startswith(os.path.realpath(self.work) + os.sep)

    def place_in_spool(self, path: str) -> str:
        """Where something that wandb wrote lies, or will lie, relative to the spool."""
        lasting = os.path.join(self.path, os.path.relpath(path, self.work))
        return os.path.relpath(lasting, self.spool).replace(os.sep, "/")

    def assert_environment(self, environ: Any) -> None:
        """The spool owns these, whatever the program did to them meanwhile."""
        environ["WANDB_MODE"] = "offline"
        environ["WANDB_DIR"] = self.work
        environ["WANDB_DATA_DIR"] = self.data_dir


def _entry_defaults(environ: Mapping[str, str]) -> Dict[str, Any]:
    try:
        defaults = json.loads(environ.get("WANDB_SPOOL_ENTRY_DEFAULTS") or "{}")
    except ValueError:
        return {}
    return defaults if isinstance(defaults, dict) else {}
