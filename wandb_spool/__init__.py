"""wandb-spool: offline-first experiment logging for PyTorch and W&B, with deferred sync that proves itself.

`wandb_spool.init(...)` in place of `wandb.init(...)` does from inside a program or a notebook what `wandb-spool run`
does from outside. Everything else is the command line, `wandb-spool`.
"""

from __future__ import annotations

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

__all__ = ["__version__", "init"]

# `python -m wandb_spool` in a checkout finds this folder before the installed package; there the flat folders runner,
# spool and syncer lie beside it.
_checkout = _Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "spool" / "states.py").is_file():
    __path__.append(str(_checkout))

from wandb_spool.spool.version import VERSION as __version__  # noqa: E402 - only now it can be found


def init(*, spool: str | None = None, **arguments: Any) -> wandb.Run:
    """`wandb.init(**arguments)`, offline into the spool; `spool` names it as `--spool` does."""
    import os
    import sys

    from wandb_spool.locate import locate
    from wandb_spool.runner.inside import init as init_inside
    from wandb_spool.spool.configuration import user_state_spool
    from wandb_spool.spool.errors import SpoolError

    try:
        located = locate(spool, os.environ)
        root, told = located.root, located.warning
    except SpoolError as error:  # a configuration that can't be read stops no training
        root, told = user_state_spool(os.environ), f"WARNING: {error}"
    if told:
        print(f"wandb-spool: {told}", file=sys.stderr)
    run: wandb.Run = init_inside(root, arguments)
    return run
