"""Call back when the program has imported a module.

A meta-path finder in front of the others: it lets them find the module, and wraps the loader's ``exec_module`` of that
one spec. An import that fails fails for the program as it would without us.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional, Sequence

from .notice import say_once

Callback = Callable[[Any], None]


def when_imported(name: str, callback: Callback) -> None:
    module = sys.modules.get(name)
    if module is not None:
        _call(callback, module)
    else:
        sys.meta_path.insert(0, _Finder(name, callback))


def _call(callback: Callback, module: Any) -> None:
    try:
        callback(module)
    except Exception as error:  # noqa: BLE001 - the program's import must succeed whatever becomes of the hook
        say_once("patch", f"the hook does not fit this wandb ({error!r}); logging goes on unguarded")


class _Finder:
    """Finds one module once."""

    def __init__(self, name: str, callback: Callback) -> None:
        self._name = name
        self._callback = callback

    def find_spec(self, name: str, path: Optional[Sequence[str]] = None, target: Any = None) -> Any:
        if name != self._name or self not in sys.meta_path:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if finder is not self and find is not None else None
            if spec is not None:
                self._wrap(spec.loader)
                return spec
        return None

    def _wrap(self, loader: Any) -> None:
        original = getattr(loader, "exec_module", None)
        if original is None:
            return

        def exec_module(module: Any) -> None:
            original(module)
            # Only after success: a program may catch the ImportError and try again.
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _call(self._callback, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass  # a loader that can't be wrapped (a frozen one): no hook, and the manifest says so
