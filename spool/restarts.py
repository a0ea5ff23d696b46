"""Which of the run directories that were found are restarts of one run, in which order, and what of that is doubtful.

Pure. A run that was preempted and resumed left several directories with one run id. Their order is that of their
starts; it is believed where nothing speaks against it. What is doubtful is told with its reason and is for a person to
decide: two programs that were given one id by mistake look much like a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SAME_START_S = 1.0
"""Two that started so close together are one behind the other only if the first one's end is known."""
PLAUSIBLE_STEP_BACK = 0.5
"""A restart that throws away more than this part of what the fragment before it logged is asked about."""


@dataclass(frozen=True)
class Piece:
    """One fragment as far as its place among the others depends on it."""

    key: str
    started_s: float | None
    ended_s: float | None
    first_step: int | None
    last_step: int | None
    resume: bool = False
    """The program asked to continue an earlier run."""


@dataclass(frozen=True)
class Doubt:
    """Why it is not certain that `later` continues `earlier`."""

    earlier: str
    later: str
    why: str


def in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """By their starts; one that tells none comes first."""
    return sorted(pieces, key=lambda piece: (piece.started_s or 0.0, piece.first_step or 0, piece.key))


def doubts(ordered: Sequence[Piece]) -> list[Doubt]:
    """What speaks against taking each piece for the continuation of the one before it."""
    found: list[Doubt] = []
    for earlier, later in pairwise(ordered):
        why = _doubt(earlier, later)
        if why is not None:
            found.append(Doubt(earlier.key, later.key, why))
    return found


def _doubt(earlier: Piece, later: Piece) -> str | None:
    if earlier.started_s is None or later.started_s is None:
        return "nothing tells when it started"
    apart_s = later.started_s - earlier.started_s
    if apart_s == 0 or (earlier.ended_s is None and apart_s < SAME_START_S):
        return "both started at the same time"
    if earlier.ended_s is not None and later.started_s < earlier.ended_s:
        overlap_s = earlier.ended_s - later.started_s
        return f"the later one started {overlap_s:.0f} s before the earlier one ended"
    return _doubt_of_steps(earlier, later)


def _doubt_of_steps(earlier: Piece, later: Piece) -> str | None:
    if earlier.first_step is None or earlier.last_step is None or later.first_step is None:
        return None  # no rows, no question
    back = earlier.last_step + 1 - later.first_step
    logged = earlier.last_step + 1 - earlier.first_step
    if back <= 0:
        return None
    if later.first_step <= earlier.first_step:
        return f"the later one begins again at step {later.first_step}, and would replace all of the earlier one"
    if back > PLAUSIBLE_STEP_BACK * logged and not later.resume:
        return f"the later one goes back from step {earlier.last_step} to {later.first_step}"
    return None
