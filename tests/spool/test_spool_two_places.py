"""An entry that lies in two directories is one entry: the place that stands is shown, the other one goes."""

from __future__ import annotations

import itertools
import shutil
import threading

import pytest

from wandb_spool.spool import durable
from wandb_spool.spool.errors import LostRaceError
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State, standing

from .entries import entry, put

RECEIPT = {"format": 1, "level": "rows"}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(State, 2)), ids=str)
@pytest.mark.parametrize("receipt", [None, RECEIPT], ids=["unproven", "proven"])
def test_repair_keeps_what_stands_and_removes_the_other(
    spool: Spool, first: State, second: State, receipt: dict[str, object] | None
) -> None:
    wanted = standing({first: receipt is not None, second: receipt is not None})
    places = {state: _copy_in(spool, state, receipt) for state in (first, second)}
    name = entry().name
    seen = spool.find(name)
    assert seen is not None and seen.state is wanted
    told = spool.repair()
    assert len(told) == 1 and name in told[0]
    assert [place.state for place in _everywhere(spool)] == [wanted]
    assert places[wanted].path.exists()
    assert spool.repair() == []


def _copy_in(spool: Spool, state: State, receipt: dict[str, object] | None) -> Place:
    made = entry(receipt=receipt)
    paths = spool.paths
    path = paths.entry(state, made.name, token=f"h-1-{state.value}", month="202611")
    durable.make_directory(path.parent)
    durable.write_json(path, made.as_json())
    return Place(made.name, state, str(path))


def _everywhere(spool: Spool) -> list[Place]:
    return [place for state in State for place in spool.places(state)]


def test_delivery_without_a_receipt_never_hides_what_is_still_owed(spool: Spool) -> None:
    _copy_in(spool, State.DELIVERED, None)
    _copy_in(spool, State.INCOMING, None)
    found = spool.find(entry().name)
    assert found is not None and found.state is State.INCOMING


def test_of_two_deliveries_the_one_with_the_receipt_stands(spool: Spool) -> None:
    for month, receipt in (("202610", None), ("202611", RECEIPT), ("202612", None)):
        path = spool.paths.entry(State.DELIVERED, entry().name, month=month)
        durable.make_directory(path.parent)
        durable.write_json(path, entry(receipt=receipt).as_json())
    spool.repair()
    assert [place.path.parent.name for place in _everywhere(spool)] == ["202611"]


def test_repair_never_removes_the_only_copy_of_an_entry_that_moves_meanwhile(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing sees it in `active`, then in `deferred`: one entry, seen twice."""
    owned = put(spool, State.ACTIVE)
    places_in = Spool.places

    def moved_after_active(self: Spool, state: State) -> object:
        found = list(places_in(self, state))
        if state is State.ACTIVE and owned.path.exists():
            spool.move(owned, State.DEFERRED)
        return found

    monkeypatch.setattr(Spool, "places", moved_after_active)
    assert spool.repair() == []
    assert [place.state for place in _everywhere(spool)] == [State.DEFERRED]


def test_repair_beside_movers_loses_nothing(spool: Spool) -> None:
    """Movers drive entries round; two repairers look on. Every entry is there at the end, once."""
    count, rounds = 20, 12
    names = {put(spool, State.INCOMING, number).name for number in range(count)}
    done = threading.Event()
    problems: list[BaseException] = []

    def repairing() -> None:
        try:
            while not done.is_set():
                spool.repair()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            problems.append(error)

    repairers = [threading.Thread(target=repairing) for _ in range(2)]
    for repairer in repairers:
        repairer.start()
    for number in range(rounds):
        source, target = (State.INCOMING, State.DEFERRED) if number % 2 == 0 else (State.DEFERRED, State.INCOMING)
        for place in list(spool.places(source)):
            try:
                spool.move(spool.claim(place), target)
            except LostRaceError:
                continue  # a repairer looks at it right now
    done.set()
    for repairer in repairers:
        repairer.join()
    assert problems == []
    assert sorted(place.name for place in _everywhere(spool)) == sorted(names)


def test_half_written_and_foreign_files_are_no_entries(spool: Spool) -> None:
    put(spool, State.INCOMING)
    directory = spool.paths.queue(State.INCOMING)
    (directory / ".tmp-0a0b0c").write_text("{")
    (directory / "notes.txt").write_text("mine")
    assert len(spool.scan()) == 1


def test_a_missing_directory_of_the_queue_is_an_empty_one(spool: Spool) -> None:
    place = put(spool, State.INCOMING)
    for state in State:
        if state is not State.INCOMING:
            shutil.rmtree(spool.paths.queue(state))
    assert list(spool.scan()) == [place.name]
    spool.claim(_with_active(spool, place))


def _with_active(spool: Spool, place: Place) -> Place:
    durable.make_directory(spool.paths.queue(State.ACTIVE))
    return place
