"""The start-up hook, seen from outside: where it lies, and how to install it in this process.

The hook itself (``site/_wandb_spool_hook``) is plain standard library and runs in interpreters that have nothing of
ours; ``site`` is put on PYTHONPATH, where ``sitecustomize`` brings it in. Nothing here imports wandb.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

HOOK_DIR: Path = Path(__file__).resolve().parent / "site"


def install(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Install the hook in this very process, as ``wandb_spool.init`` does; idempotent. False without a launch."""
    folder = str(HOOK_DIR)
    if folder not in sys.path:
        # Last: its sitecustomize must not hide anybody's, and only the uniquely named package is wanted.
        sys.path.append(folder)
    import _wandb_spool_hook

    return bool(_wandb_spool_hook.install(environ))
