"""Which entries belong to runs that finished: for `sync --only finished`.

A run is finished when its newest fragment ended with exit code 0, by its exit record or by its process. Then all of its
fragments are due, the failed ones before it too. A run that failed, was killed or told nothing stays where it is.
"""

from __future__ import annotations

import time

from wandb_spool.spool.configuration import Limits
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.survey import Found, Survey
from wandb_spool.syncer.plan import is_due, run_order
from wandb_spool.syncer.service import run_key


def finished(survey: Survey, limits: Limits, *, everything: bool) -> frozenset[str]:
    """The names of the entries that are due and of a finished run; `everything` ignores not-before times."""
    runs: dict[str, list[Found]] = {}
    for found in survey.read(frozenset(State) - {State.VOID, State.DISCARDED}):
        runs.setdefault(run_key(found.entry), []).append(found)
    now = time.time()
    chosen = (found for members in runs.values() if _ended_well(survey.spool, members) for found in members)
    return frozenset(
        found.entry.name
        for found in chosen
        if found.state is State.INCOMING
        or (found.state is State.DEFERRED and (everything or is_due(found.entry, now, limits)))
    )


def _ended_well(spool: Spool, members: list[Found]) -> bool:
    newest = run_order([found.entry for found in members])[-1]
    if any(found.state is State.OPEN for found in members):
        return False
    try:
        return read_manifest(newest.run_directory(spool.root))[0].exit_code == 0
    except (OSError, SpoolError):
        return False
