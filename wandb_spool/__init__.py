"""wandb-spool: offline-first experiment logging for PyTorch and W&B, with deferred sync that proves itself."""

from __future__ import annotations

from pathlib import Path as _Path

__version__ = "0.1.0"

# `python -m wandb_spool` in a checkout finds this folder before the installed package; there the flat folders runner,
# spool and syncer lie beside it.
_checkout = _Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "spool" / "states.py").is_file():
    __path__.append(str(_checkout))
