"""The table of docs/format.md is the table of the code, and the queue moves along it and no other way."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from wandb_spool.spool.errors import TransitionError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import PRECEDENCE, TRANSITIONS, WAITING, State, standing

from .entries import put

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def documented_table() -> dict[str, set[str]]:
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([\w, ]+) \|$", DOCUMENT, re.MULTILINE)
    return {state: set(targets.split(", ")) for state, targets in rows if state != "state"}


def test_transition_table_is_the_documented_one() -> None:
    assert documented_table() == {str(state): {str(t) for t in targets} for state, targets in TRANSITIONS.items()}


def test_precedence_is_the_documented_one() -> None:
    sentence = re.search(r"the first of\s+\*(.+?)\* stands", DOCUMENT, re.DOTALL)
    assert sentence is not None
    words = re.sub(r"\([^)]*\)", "", sentence[1]).replace("\n", " ").split(",")
    assert [word.strip() for word in words] == [str(state) for state in PRECEDENCE]
    assert set(PRECEDENCE) == set(State)


def test_every_directory_of_the_queue_is_a_state() -> None:
    line = re.search(r"queue/<state>/<entry>.json\s+(.+)", DOCUMENT)
    assert line is not None
    assert set(line[1].split()) == {str(state) for state in State} - {"active", "delivered"}


@pytest.mark.parametrize("source", list(State), ids=str)
@pytest.mark.parametrize("target", list(State), ids=str)
def test_a_move_happens_exactly_when_the_table_has_it(spool: Spool, source: State, target: State) -> None:
    place = put(spool, source)
    if target in TRANSITIONS[source] and target is not State.ACTIVE:
        moved = spool.move(place, target)
        assert (spool.find(place.name), spool.read(moved).history[-1]["to"]) == (moved, str(target))
        assert not place.path.exists()
    elif target is State.ACTIVE and source is not State.ACTIVE and target in TRANSITIONS[source]:
        owned = spool.claim(place)
        assert owned.path.exists() and not place.path.exists()
    else:
        with pytest.raises(TransitionError):
            spool.move(place, target)
        assert spool.find(place.name) is not None
        assert place.path.exists(), "a refused move leaves the entry where it is"


def test_every_state_is_left_again_except_by_proof() -> None:
    assert all(TRANSITIONS[state] for state in State)
    assert {state for state in State if State.DELIVERED in TRANSITIONS[state]} == {
        State.ACTIVE,
        State.TRANSIT,
        State.UNVERIFIED,
    }


def test_rows_are_owed_until_they_are_proven_thrown_away_or_never_were() -> None:
    assert set(State) - WAITING == {State.DELIVERED, State.DISCARDED, State.VOID}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(State, 2)), ids=str)
def test_of_two_places_the_documented_one_stands(first: State, second: State) -> None:
    wanted = min((first, second), key=PRECEDENCE.index)
    assert standing({first: True, second: True}) is wanted
    other = second if first is State.DELIVERED else first
    without_receipt = other if State.DELIVERED in (first, second) else wanted
    assert standing({first: False, second: False}) is without_receipt
