"""A launch from inside a program: `wandb_spool.init()`, for notebooks and for people who start no launcher.

Guarantees: the program gets what `wandb.init` gives, offline and in the spool, whatever is wrong with the spool. What
it logged is sealed when it ends, and what had finished already when the next run begins; a program that is killed
leaves its fragments *open*, for `recover`. One launch a process; inside `wandb-spool run` it is the launcher's.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from wandb_spool.spool.launches import Launch

from .cache_place import cache_variables
from .environment import environment_without_spool
from .fallback import candidates, choose, warning
from .hook import install
from .launch import LaunchRequest, environment_of, make_launch
from .sealing import Sealer

_WRITERS_TIMEOUT_S = 5.0
_sealers: dict[int, Sealer] = {}  # by process: a forked child seals nothing of its parent's


def init(spool: Path, arguments: dict[str, Any], environ: MutableMapping[str, str] = os.environ) -> Any:
    """`wandb.init(**arguments)` in a launch of this process."""
    sealer = _sealers.get(os.getpid())
    if sealer is not None:
        sealer.seal_finished()
    elif not _inside_launch(environ):
        _begin(spool, environ)
    install(environ)
    import wandb

    return wandb.init(**arguments)


def _inside_launch(environ: MutableMapping[str, str]) -> bool:
    launch = environ.get("WANDB_SPOOL_LAUNCH")
    return bool(launch) and os.path.isdir(str(launch))


def _begin(spool: Path, environ: MutableMapping[str, str]) -> None:
    """Make the launch and take over the environment of this process and its children."""
    request = LaunchRequest(command=(sys.executable, *sys.argv), spool=spool)
    # Before wandb is imported: what is registered first runs last, when wandb has ended its runs.
    chosen = choose(candidates(spool, environ), lambda made: make_launch(made, request, environ))
    for line in warning(chosen):
        print(f"wandb-spool: {line}", file=sys.stderr)
    if chosen.launch is None:
        environ.update(environment_without_spool(environ).variables)
        return
    changes = environment_of(chosen.launch, request, environ)
    if changes.overridden:
        print(f"wandb-spool: overridden in this process: {', '.join(changes.overridden)}", file=sys.stderr)
    environ.update({**changes.variables, **cache_variables(environ)})
    _sealers[os.getpid()] = Sealer(chosen.launch)
    atexit.register(_end, chosen.launch, os.getpid())


def _end(launch: Launch, pid: int) -> None:
    """The end of the program: seal, or leave it to `recover`."""
    if os.getpid() != pid:
        return
    try:
        if not launch.discard_if_empty():
            launch.free_reserve()
            _sealers[pid].finish(timeout_s=_WRITERS_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - the program has ended, and ended well as far as it is concerned
        print(
            f"wandb-spool: sealing failed ({error!r}); nothing is lost: `wandb-spool recover` goes on", file=sys.stderr
        )
