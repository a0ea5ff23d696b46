"""Count rows as wandb-core commits them, from the calls that are sent to it.

A row is begun by the first call after a commit. A call without a step commits unless it says ``commit=False``; a call
with a step commits only if it says ``commit=True``, and a greater step commits the row that is open. A call whose step
lies below the current one is refused by wandb. This is the whole of wandb-core's rule; tests/hook holds it against
real logs.
"""

from __future__ import annotations

from typing import Optional


class Rows:
    """``begun`` rows (the open one included), ``refused`` calls, the ``step`` at which the next call lands."""

    __slots__ = ("begun", "last_step", "open", "refused", "step")

    def __init__(self, step: int = 0) -> None:
        self.begun = 0
        self.refused = 0
        self.step = step
        self.open = False
        self.last_step = -1  # of the newest row

    def call(self, step: Optional[int], flush: Optional[bool]) -> bool:
        """Account for one call; false if wandb refuses it."""
        if step is not None and step != self.step:
            if step < self.step:
                self.refused += 1
                return False
            self.step = step
            self.open = False
        if not self.open:
            self.open = True
            self.begun += 1
            self.last_step = self.step
        if step is None if flush is None else flush:
            self.step += 1
            self.open = False
        return True
