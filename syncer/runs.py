"""Which entries stand for the fragments of one run on its server. Pure.

A replay to the same target is the same run again: it goes in turn with the other fragments, and is compared together
with them; a replay elsewhere is a run of its own. Of several entries for one fragment (an original and its replays) one
stands for it, so that no row of it is counted or compared twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from wandb_spool.spool.entry import Entry, Replay, Target
from wandb_spool.spool.states import State

from .plan import BLOCKING, Known, run_order

_DEFAULT = "default"


def run_key(entry: Entry) -> str:
    """Fragments of one run share project, entity and id, or what a replay puts in their place."""
    asked = entry.replay or Replay()
    parts = (
        entry.base_url if asked.destination in (None, _DEFAULT) else f"destination {asked.destination}",
        asked.entity or entry.entity,
        asked.project or entry.project,
        asked.run_id or entry.run_id,
    )
    return "\n".join(part or "" for part in parts)


def chain_of(siblings: Sequence[Known], own: Entry, target: Target) -> tuple[Entry, ...]:
    """The fragments that make up the target run, each once and in their order; `own` stands for its fragment.

    One that is still being written is not part of it, nor is one that is void, was skipped or went elsewhere (a person
    moved the run meanwhile).
    """
    chosen: dict[str, Entry] = {}
    for entry in run_order([item.entry for item in siblings if _counts(item) and _goes_to(item.entry, target)]):
        standing = chosen.get(entry.path)
        if standing is None or entry.name == own.name or (standing.name != own.name and not standing.receipt):
            chosen[entry.path] = entry
    return tuple(chosen.values())


def set_aside(siblings: Sequence[Known]) -> frozenset[str]:
    """Entries of which nobody knows whether they will ever be sent: they supersede nothing that could be."""
    return frozenset(item.entry.name for item in siblings if item.state in (State.HELD, State.QUARANTINED))


def _counts(sibling: Known) -> bool:
    skipped = sibling.state in BLOCKING and sibling.entry.extra.get("skipped")
    return sibling.state not in (State.OPEN, State.VOID, State.DISCARDED) and not skipped


def _goes_to(entry: Entry, target: Target) -> bool:
    """A destination is its name: a server that moved keeps it."""
    there = entry.target
    return there is None or _run_of(there) == _run_of(target)


def _run_of(target: Target) -> tuple[str, ...]:
    return (target.destination, target.entity, target.project, target.run_id)
