"""What is in a spool, robust against damage: whatever can't be read becomes a problem line, the rest is still there.

Costs a listing of each directory of the queue; entries are read only where they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wandb_spool.spool import clock
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import WAITING, State

_T = TypeVar("_T")

DAMAGED = 4
WORTHWHILE_ENTRIES = 500
"""Fewer delivered entries are read as fast as the index is opened."""


@dataclass(frozen=True)
class Found:
    """One entry, where it stands, and its body."""

    place: Place
    entry: Entry

    @property
    def state(self) -> State:
        return self.place.state

    def run_directory(self, spool: Spool) -> Path:
        return self.entry.run_directory(spool.root)


@dataclass
class Survey:
    """All entries of a spool by name, at the place that stands, and what is wrong with them."""

    spool: Spool
    places: dict[str, Place]
    problems: list[str] = field(default_factory=list)
    damaged: bool = False

    @classmethod
    def of(cls, spool: Spool) -> Survey:
        places: dict[str, Place] = {}
        twice: dict[str, list[Place]] = {}
        for state in State:
            for place in spool.places(state):
                first = places.setdefault(place.name, place)
                if first is not place:
                    twice.setdefault(place.name, [first]).append(place)
        survey = cls(spool, places)
        if twice:
            standing = spool.scan()
            for name, at in sorted(twice.items()):
                survey.places[name] = standing.get(name, at[0])
                survey.problems.append(_twice(name, at, survey.places[name]))
        return survey

    def counts(self) -> dict[str, int]:
        """How many entries are in each state."""
        return {state.value: number for state, number in self._per_state(len).items()}

    def minutes(self) -> dict[State, Counter[str]]:
        """How many entries in each state come from launches of one minute (`YYYYMMDDTHHMM`)."""
        return self._per_state(lambda names: Counter(name[:13] for name in names))

    def _per_state(self, of_names: Callable[[list[str]], _T]) -> dict[State, _T]:
        names: dict[int, list[str]] = {id(state): [] for state in State}  # hashing an enum a 100 000 times costs
        for name, place in self.places.items():
            names[id(place.state)].append(name)
        return {state: of_names(names[id(state)]) for state in State}

    def read(self, states: Iterable[State] | None = None) -> Iterator[Found]:
        """The entries in these states (default: all) that can be read, by name."""
        wanted = frozenset(State) if states is None else frozenset(states)
        indexed = self._indexed() if State.DELIVERED in wanted else {}
        names = self._per_state(list)
        for name in sorted(name for state in wanted for name in names[state]):
            entry = indexed.get(name)
            found = self.read_one(self.places[name]) if entry is None else Found(self.places[name], entry)
            if found is not None:
                yield found

    def _indexed(self) -> dict[str, Entry]:
        """Delivered entries by name, from the index where there are many."""
        delivered = [place for place in self.places.values() if place.state is State.DELIVERED]
        if len(delivered) < WORTHWHILE_ENTRIES:
            return {}
        from wandb_spool.spool.index import DeliveredIndex  # late: its library is slow to import

        return {entry.name: entry for entry in DeliveredIndex(self.spool).entries(delivered)}

    def read_one(self, place: Place) -> Found | None:
        """One entry; None, and a problem, when it can't be read. One that moved meanwhile is looked for once."""
        try:
            return Found(place, self.spool.read(place))
        except FileNotFoundError:
            moved = self.spool.find(place.name)
            if moved is None or moved == place:
                return None
            self.places[place.name] = moved
            return self.read_one(moved)
        except SpoolError as error:
            self.note_damage(str(error))
            return None

    def note_damage(self, line: str) -> None:
        self.problems.append(line)
        self.damaged = True

    def check_directory(self, found: Found) -> bool:
        """Whether the run directory of a fragment that is still owed to somebody is there."""
        if found.state not in WAITING or found.run_directory(self.spool).is_dir():
            return True
        self.note_damage(
            f"the run directory of {found.entry.name} ({found.state}) is gone: {found.run_directory(self.spool)} · "
            "bring it back from a backup, or `wandb-spool discard` the entry"
        )
        return False

    @property
    def exit_code(self) -> int:
        return DAMAGED if self.damaged else 0


def age_s(name: str, now_s: float) -> float:
    """The age of an entry, from the time in its launch's name; 0 for a name from the future."""
    text = name[:15]
    then = (
        clock.seconds(f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:15]}Z") if len(text) == 15 else None
    )
    return 0.0 if then is None else max(0.0, now_s - then)


def _twice(name: str, places: list[Place], standing: Place) -> str:
    where = ", ".join(str(place.state) for place in places)
    return f"{name} lies in {where}; {standing.state} stands · `wandb-spool recover` removes the other"
