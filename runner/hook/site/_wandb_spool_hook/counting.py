"""Count at the one place through which every row goes: ``_publish_partial_history`` of the run's interface.

``log``, the hooks of ``watch`` and the integrations all end there, after wandb has encoded the values: what fails
earlier was never a row.
"""

from __future__ import annotations

from typing import Any

from .anatomy import part

ATTRIBUTE = "_wandb_spool_fragment"  # on the interface object: the fragment that it writes to


def install() -> None:
    InterfaceShared = part("interface.interface_shared").InterfaceShared
    original = InterfaceShared._publish_partial_history

    def _publish_partial_history(self: Any, history: Any) -> Any:
        fragment = getattr(self, ATTRIBUTE, None)
        if fragment is None:
            return original(self, history)
        step = history.step.num if history.HasField("step") else None
        flush = history.action.flush if history.HasField("action") else None
        # Threads that log at once must be counted in the order in which they are sent.
        with fragment.lock:
            fragment.call(step, flush)
            return original(self, history)

    InterfaceShared._publish_partial_history = _publish_partial_history
