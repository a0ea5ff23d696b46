"""What `sync`, `daemon`, `replay` and `demo` share: configuration, the check of wandb, the words at the end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import metadata

from wandb_spool.output import complain, emit
from wandb_spool.spool.configuration import Configuration, configuration_paths, load_configuration
from wandb_spool.spool.errors import SpoolError, UsageError
from wandb_spool.spool.states import State
from wandb_spool.syncer.service import PassResult

OLDEST_WANDB = (0, 31)


def configuration() -> Configuration:
    """The configuration of this user on this machine."""
    return load_configuration(configuration_paths(os.environ))


class Newest:
    """The configuration as it is now, for a daemon: what was changed counts from the next pass on.

    One that can't be read is told once, and the one before goes on.
    """

    def __init__(self, first: Configuration, tell: Callable[[str], None]) -> None:
        self.configuration = first
        self._tell = tell
        self._wrong = ""

    def __call__(self) -> Configuration:
        try:
            self.configuration, self._wrong = configuration(), ""
        except SpoolError as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                self._tell(f"warning: the configuration of before goes on: {error}")
        return self.configuration


def require_wandb() -> None:
    """The syncer needs the `wandb sync` of 0.31 or newer. Raises UsageError with the command that brings it."""
    hint = (
        f"`{sys.executable} -m pip install 'wandb>=0.31'` in the syncer's own environment; yours to train with can stay"
    )
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError as error:
        raise UsageError("wandb is not installed here; nothing was sent", hint=hint) from error
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < OLDEST_WANDB:
        raise UsageError(f"wandb {version} is too old to deliver with (0.31 or newer); nothing was sent", hint=hint)


def summarise(result: PassResult) -> None:
    """The end of a pass: what happened, whether anything is lost, the one next command."""
    counts = [
        f"{result.count(state)} {state.value}"
        for state in (State.DELIVERED, State.UNVERIFIED, State.DEFERRED, State.QUARANTINED, State.VOID)
        if result.count(state)
    ]
    for base_url, reason in sorted(result.outages.items()):
        emit(f"{base_url} could not be used: {reason}. Nothing is lost; runs wait in the spool.")
    if counts:
        emit(", ".join(counts) + (f"; {result.waiting} more wait" if result.waiting else ""))
    elif result.waiting:
        when = f" until {result.next_due}" if result.next_due else ""
        emit(f"nothing is due; {result.waiting} deferred{when} (`wandb-spool sync --all` tries them now)")
    else:
        emit("nothing to deliver")
    if result.count(State.QUARANTINED):
        emit("look at what was quarantined: `wandb-spool ls`, `wandb-spool show RUN`; nothing of it is lost")
    for problem in result.problems:
        complain(problem)


def as_json(result: PassResult) -> dict[str, object]:
    """What a pass did, for programs."""
    return {
        "delivered": result.count(State.DELIVERED),
        "deferred": result.count(State.DEFERRED),
        "quarantined": result.count(State.QUARANTINED),
        "unverified": result.count(State.UNVERIFIED),
        "waiting": result.waiting,
        "recovered": result.recovered,
        "exit_code": result.exit_code,
        "outages": result.outages,
        "problems": result.problems,
        "planned": [{"entry": entry, "target": target} for entry, target in result.planned],
        "outcomes": [
            {
                "entry": outcome.entry,
                "state": outcome.state.value,
                "target": None if outcome.target is None else outcome.target.as_json(),
                "failure": None if outcome.failure is None else outcome.failure.value,
                "reason": outcome.reason,
                "rows": outcome.rows,
                "superseded": outcome.superseded,
                "pushed": outcome.pushed,
            }
            for outcome in result.outcomes
        ],
    }
