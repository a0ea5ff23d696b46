"""Which entries a person means by RUN: an entry, a launch, a run directory's name, a run id, or a path.

A run id means all fragments of that run. What fits several runs is ambiguous: they are listed, and the person chooses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.layout import ENTRY_NAME
from wandb_spool.spool.states import State

from .survey import Found, Survey

_LISTED = 10


def find_runs(survey: Survey, texts: Sequence[str]) -> list[Found]:
    """The entries meant by all of the texts, each once. Raises UsageError for none and for an ambiguous one."""
    chosen: dict[str, Found] = {}
    for text in texts:
        for found in find_run(survey, text):
            chosen.setdefault(found.entry.name, found)
    return list(chosen.values())


def find_run(survey: Survey, text: str) -> list[Found]:
    """The entries meant by one text: one fragment, or the fragments of one run."""
    if not text.strip():
        raise UsageError("an empty name is no run: a variable that is not set?", hint="`wandb-spool ls`")
    names = _names(survey, text)
    found = [item for item in (survey.read_one(survey.places[name]) for name in sorted(names)) if item is not None]
    if names and not found:
        raise UsageError(f"{text}: its entry is damaged", hint="`wandb-spool recover` writes it anew")
    if not found:
        found = [item for item in _readable(survey) if item.entry.run_id == text]
    if not found:
        raise UsageError(f"no run in this spool is called {text}", path=survey.spool.root, hint="`wandb-spool ls`")
    if len({_run(item) for item in found}) > 1:
        raise UsageError(f"{text} is ambiguous; say which: {_listing(found)}")
    return found


def _readable(survey: Survey) -> Iterable[Found]:
    """Entries whose run id may differ from their directory's name; the delivered ones are too many to be read."""
    return survey.read(frozenset(State) - {State.DELIVERED})


def _names(survey: Survey, text: str) -> set[str]:
    if text in survey.places:
        return {text}
    path = _path_of(survey, text)
    if path is not None:
        text = path
    if text in survey.places:
        return {text}
    names: set[str] = set()
    for name in survey.places:
        match = ENTRY_NAME.match(name)
        if match and text in (match["launch"], match["fragment"], _run_id(match["fragment"])):
            names.add(name)
    return names


def _path_of(survey: Survey, text: str) -> str | None:
    """An existing path within `runs/` as the name of its entry or launch."""
    if "/" not in text and not os.path.exists(text):
        return None
    path = Path(os.path.realpath(os.path.expanduser(text)))
    runs = Path(os.path.realpath(survey.spool.paths.runs))
    if not path.is_relative_to(runs):
        return None
    parts = path.relative_to(runs).parts
    if len(parts) >= 4 and parts[2] == "wandb":
        return f"{parts[1]}.{parts[3]}"
    return parts[1] if len(parts) >= 2 else None


def _run_id(fragment: str) -> str:
    """`offline-run-<date>_<time>-<id>`."""
    return fragment.removeprefix("offline-").removeprefix("run-").partition("-")[2]


def _run(found: Found) -> tuple[str | None, ...]:
    entry = found.entry
    target = None if entry.replay is None else entry.name  # a replay is a delivery of its own
    return entry.run_id or entry.name, entry.project, entry.entity, target


def _listing(found: Sequence[Found]) -> str:
    names = [f"{item.entry.name} ({item.entry.run_id}, {item.state})" for item in found[:_LISTED]]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(names) + more
