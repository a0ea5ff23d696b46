"""The start-up hook: what ``wandb-spool run`` does inside the training program.

Standard library only, Python 3.8 and newer: it runs in interpreters that have nothing else of ours. It does nothing
without ``WANDB_SPOOL_LAUNCH``, nothing until the program imports wandb, and never raises into the program.
"""

from __future__ import annotations

import os
from typing import MutableMapping

from . import exits, importing
from .launch import Launch

_installed = False


def install(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Watch for ``import wandb``; at once if it was imported already. True if the hook is (already) in place."""
    global _installed
    if _installed:
        return True
    launch = Launch.from_environ(environ)
    if launch is None:
        return False
    _installed = True
    exits.exit_code.watch()
    importing.when_imported("wandb", lambda module: _patch(module, launch))
    return True


def _patch(wandb: object, launch: Launch) -> None:
    # Imported late: a program that never imports wandb pays for nothing but the finder.
    from . import patching

    patching.patch(wandb, launch)
