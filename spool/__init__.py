"""The spool on disk. For programs: `open_run` reads any run without wandb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run_reader import ConsoleLine, HistoryRow, RunFile, RunReader, SystemSample, open_run

__all__ = ["ConsoleLine", "HistoryRow", "RunFile", "RunReader", "SystemSample", "open_run"]


def __getattr__(name: str) -> Any:
    # Late: the start of a training imports this package and reads no run.
    if name in __all__:
        from . import run_reader

        return getattr(run_reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
