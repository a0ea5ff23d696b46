"""What to do next: a pure function of entries, clock and budget.

Fresh runs come first and a backlog never delays them: due entries of `incoming` and of `deferred` are taken
alternately. The fragments of one run go in the order of their predecessors; a run goes one fragment at a time. Nothing
here reads a clock, a file or a server.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from wandb_spool.spool.clock import seconds
from wandb_spool.spool.configuration import Limits
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.layout import original_name
from wandb_spool.spool.states import State

BLOCKING = frozenset({State.HELD, State.QUARANTINED, State.TRANSIT})
"""A predecessor in one of these states keeps its successors waiting until it is mended or skipped."""


@dataclass(frozen=True)
class Known:
    """An entry and the state in which it was seen."""

    entry: Entry
    state: State


@dataclass(frozen=True)
class Waiting:
    """An entry that has to wait for another one."""

    known: Known
    predecessor: str
    predecessor_state: State


def next_backoff_s(previous_s: float, limits: Limits) -> float:
    """The ceiling of the next wait: the first one, then doubling to a cap."""
    return min(limits.backoff_cap_s, max(limits.backoff_first_s, 2.0 * previous_s))


def jittered_s(ceiling_s: float, rng: random.Random) -> float:
    """Full jitter: it spreads a backlog that failed together, so that it does not ripen at once."""
    return rng.uniform(0.0, ceiling_s)


def is_due(entry: Entry, now_s: float, limits: Limits) -> bool:
    """Whether the not-before time has come. One beyond the largest backoff comes from another clock: it is due."""
    not_before = seconds(entry.not_before)
    return not_before is None or not_before <= now_s or not_before > now_s + limits.backoff_cap_s


def run_order(entries: Sequence[Entry]) -> list[Entry]:
    """The fragments of one run, each after its predecessor; a replay stands where its original does.

    Those whose predecessor is unknown, and several with the same one, come in the order of their creation, which is
    the order of one host's names; a circle (a damaged entry) is broken there too.
    """
    remaining = sorted(entries, key=lambda entry: (entry.created, entry.name))
    ordered: list[Entry] = []
    while remaining:
        left = {original_name(entry.name) for entry in remaining}
        ready = (entry for entry in remaining if _before(entry) not in left)
        chosen = next(ready, remaining[0])
        ordered.append(chosen)
        remaining.remove(chosen)
    return ordered


def _before(entry: Entry) -> str | None:
    return None if entry.predecessor is None else original_name(entry.predecessor)


def interleave(fresh: Iterable[Known], backlog: Iterable[Known]) -> list[Known]:
    """Fresh entries and backlog in turn, the fresh ones first."""
    pairs = zip_longest(fresh, backlog)
    return [known for known in chain.from_iterable(pairs) if known is not None]


def candidates(known: Iterable[Known], now_s: float, limits: Limits, *, everything: bool) -> list[Known]:
    """Entries that may be served in this pass, in the order in which they should be."""
    fresh: list[Known] = []
    backlog: list[Known] = []
    for item in sorted(known, key=lambda item: (item.entry.created, item.entry.name)):
        if item.state is State.INCOMING:
            fresh.append(item)
        elif item.state is State.DEFERRED and (everything or is_due(item.entry, now_s, limits)):
            backlog.append(item)
    return interleave(fresh, backlog)


def first_of_run(
    due: Sequence[Known], siblings: Mapping[str, Sequence[Known]], run_of: Mapping[str, str]
) -> tuple[list[Known], list[Waiting]]:
    """Of each run the one fragment that is next, and those that wait for a predecessor that doesn't move.

    `run_of` maps an entry's name to its run, `siblings` a run to all its fragments in every state. Of several entries
    for one fragment (an original and its replays) the one that can go on stands for it.
    """
    chosen: list[Known] = []
    waiting: list[Waiting] = []
    seen: set[str] = set()
    due_names = frozenset(item.entry.name for item in due)
    for item in due:
        run = run_of[item.entry.name]
        if run in seen:
            continue
        seen.add(run)
        fragments = _one_of_each(siblings[run], due_names)
        states = {sibling.entry.name: sibling.state for sibling in fragments}
        ordered = run_order([sibling.entry for sibling in fragments])
        blocker: tuple[str, State] | None = None
        for entry in ordered:
            state = states[entry.name]
            if state in BLOCKING and not entry.extra.get("skipped"):
                blocker = blocker or (entry.name, state)
            elif entry.name in due_names:
                known = next(sibling for sibling in fragments if sibling.entry.name == entry.name)
                if blocker is None:
                    chosen.append(known)
                    break
                waiting.append(Waiting(known, *blocker))
            elif state in (State.INCOMING, State.DEFERRED, State.ACTIVE):
                break  # its turn has not come, and nobody overtakes it
    return chosen, waiting


def _one_of_each(siblings: Sequence[Known], due: frozenset[str]) -> list[Known]:
    """Of several entries for one fragment the one that decides: what is due, what will be, what was delivered."""

    def rank(item: Known) -> tuple[int, str, str]:
        waits = item.state in (State.INCOMING, State.DEFERRED, State.ACTIVE)
        order = (item.entry.name in due, waits, item.state is State.DELIVERED, True).index(True)
        return order, item.entry.created, item.entry.name

    chosen: dict[str, Known] = {}
    for item in sorted(siblings, key=rank):
        chosen.setdefault(item.entry.path, item)
    return list(chosen.values())
