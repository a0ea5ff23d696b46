"""Rows that wandb-core itself makes of TensorBoard's event files (``sync_tensorboard``).

It reads only files that are no older than the run, from their beginning. A new wandb-core that takes over a run is
therefore told when the run really began: then it makes all rows anew, and the earlier ones are superseded.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Optional

from .anatomy import part


def start_s(run: Any) -> Optional[float]:
    """When wandb says that this run began; None from a wandb that keeps it elsewhere."""
    return getattr(run._settings, "x_start_time", None)


@contextlib.contextmanager
def began_at(time_s: Optional[float]) -> Iterator[None]:
    """Let the next ``init`` tell wandb-core this beginning; its directory is named after the present all the same."""
    owner = part("lib.service.service_connection").ServiceConnection
    original = getattr(owner, "inform_init", None)
    if time_s is None or original is None:
        yield
        return

    def inform_init(self: Any, settings: Any, *args: Any, **kwargs: Any) -> Any:
        settings.x_start_time.value = time_s
        return original(self, settings, *args, **kwargs)

    owner.inform_init = inform_init
    try:
        yield
    finally:
        owner.inform_init = original
