"""Which fragment of a run comes before which.

A restart names the fragment that it continues: the hook writes it down where it knows it (a resumed run, a log that was
continued after wandb-core died). Where nobody did, the seal looks for fragments of the same run that were there before.
"""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Entry
from .errors import SpoolError
from .layout import run_ids
from .queue import Spool
from .states import State

_NO_PART = frozenset({State.VOID, State.DISCARDED})


def predecessor_of(spool: Spool, entry: Entry) -> str | None:
    """The entry that this one continues, or None when it begins its run.

    Found by the run id that every run directory bears in its name, so that only the fragments of this run are read.
    """
    earlier = [other for other in _same_run(spool, entry) if (other.created, other.name) < (entry.created, entry.name)]
    followed = {other.predecessor for other in earlier}
    tails = [other for other in earlier if other.name not in followed]
    return max(tails, key=lambda other: (other.created, other.name)).name if tails else None


def _same_run(spool: Spool, entry: Entry) -> Iterator[Entry]:
    for state in State:
        if state in _NO_PART:
            continue
        for place in spool.places(state):
            if entry.run_id not in run_ids(place.name) or place.name == entry.name:
                continue
            try:
                other = spool.read(place)
            except (FileNotFoundError, SpoolError):
                continue
            if (other.run_id, other.project, other.entity) == (entry.run_id, entry.project, entry.entity):
                yield other
