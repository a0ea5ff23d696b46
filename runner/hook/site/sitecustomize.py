"""Brought into the program's interpreter by PYTHONPATH: install the hook, then run the next ``sitecustomize``.

Guarantees: never raises, whatever the hook or its environment is like; the ``sitecustomize`` that this file hides (a
distribution's, a user's own) still runs, and is what ``sys.modules`` holds afterwards.
"""

import os
import sys


def _run_next():
    # type: () -> None
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("WANDB_SPOOL_LAUNCH"):
    try:
        import _wandb_spool_hook

        _wandb_spool_hook.install(os.environ)
    except Exception as error:  # noqa: BLE001 - a broken hook must not break the program that it was brought into
        sys.stderr.write(f"wandb-spool: the start-up hook could not be installed ({error!r}); "
                         "logging goes on without it\n")  # fmt: skip

_run_next()
