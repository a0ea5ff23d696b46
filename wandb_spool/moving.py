"""Moves that a person asks for: hold, release, discard and back. Each entry by itself: what can't be moved is said."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from wandb_spool.locate import open_spool
from wandb_spool.lookup import find_runs
from wandb_spool.output import complain, confirm, emit
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.errors import LostRaceError
from wandb_spool.spool.states import WAITING, State
from wandb_spool.spool.words import count
from wandb_spool.survey import Found, Survey


def move_all(
    spool: str | None,
    runs: Sequence[str],
    target: State | Callable[[Entry], State],
    *,
    allowed_from: frozenset[State],
    refusals: Mapping[State, str],
    change: Callable[[Entry], Entry] = lambda entry: entry,
    unless: Callable[[Entry], str | None] = lambda entry: None,
    question: str | None = None,
    yes: bool = False,
    undo: str | None = None,
) -> int:
    """Move the entries that are meant; returns 0, or 2 when one of them is not in a state from which it can be.

    `undo` is the command that takes it back, for the last line.
    """
    opened = open_spool(spool)
    survey = Survey.of(opened)
    chosen = find_runs(survey, runs)
    movable = []
    for found in chosen:
        refused = refusals.get(found.state, f"is {found.state}") if found.state not in allowed_from else None
        refused = refused or unless(found.entry)
        if refused is None:
            movable.append(found)
        else:
            complain(f"{found.entry.name} {refused}; it was left alone")
    if question and movable and not confirm(_ask(question, movable), yes=yes):
        emit("nothing was done")
        return 0
    moved = [_move(survey, found, target, change) for found in movable]
    if undo and any(moved):
        emit(f"`wandb-spool {undo} {' '.join(map(shlex.quote, runs))}` takes that back")
    return 0 if len(movable) == len(chosen) and all(moved) else 2


def restored_state(entry: Entry) -> State:
    """Where a discarded entry came from: it is due again, unless it never held anything."""
    before = next((event.get("from") for event in reversed(entry.history) if event.get("to") == "discarded"), None)
    return State.VOID if before == State.VOID.value or entry.manifest_sha256 is None else State.INCOMING


def _move(
    survey: Survey, found: Found, target: State | Callable[[Entry], State], change: Callable[[Entry], Entry]
) -> bool:
    state = target if isinstance(target, State) else target(found.entry)
    try:
        survey.spool.move(found.place, state, change(found.entry), why="asked for by a person")
    except LostRaceError:
        complain(f"{found.entry.name} moved meanwhile; it was left alone: `wandb-spool show {found.entry.name}`")
        return False
    emit(f"{found.entry.name}: {found.state} → {state}")
    return True


def _ask(question: str, movable: Sequence[Found]) -> str:
    rows = sum(found.entry.rows or 0 for found in movable if found.state in WAITING)
    return question.format(runs=count(len(movable), "fragment"), rows=rows)
