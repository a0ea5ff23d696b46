"""Taking, moving and putting back: one winner, nothing half, nothing lost, whoever sleeps, dies or is told nonsense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shim

from wandb_spool.spool import durable
from wandb_spool.spool.entry import HISTORY_LIMIT
from wandb_spool.spool.errors import DamagedError, LostRaceError, TransitionError
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State

from .entries import entry, put

CLAIM_ALL = """
import sys
from pathlib import Path
from wandb_spool.spool.errors import LostRaceError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
spool = Spool.open(Path(sys.argv[1]))
sys.stdin.readline()
for place in sorted(spool.places(State.INCOMING), key=lambda place: place.name):
    try:
        owned = spool.claim(place)
    except LostRaceError:
        continue
    print(owned.name, flush=True)
"""

GO_ROUND = """
import sys
from dataclasses import replace
from pathlib import Path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.spool.entry import Entry
spool = Spool.create(Path(sys.argv[1]))
name = "20261121T045000-n1-0a1b2c3d.offline-run-20261121_045001-abc"
path = "runs/202611/20261121T045000-n1-0a1b2c3d/wandb/offline-run-20261121_045001-abc"
place = spool.add(Entry(name, name.split(".")[0], name.split(".")[1], path, "2026-11-21T04:50:01.123Z"))
for number, state in enumerate([State.INCOMING, State.HELD, State.INCOMING, State.TRANSIT, State.DELIVERED]):
    place = spool.move(place, state, replace(spool.read(place), attempts=number))
    owner = spool.claim(place)
    spool.rewrite(owner, replace(spool.read(owner), refusals=number))
    spool.put_back(owner)
    place = spool.find(name)
    assert place.state is state, (place.state, state)
entry = spool.read(place)
assert (entry.attempts, entry.refusals, len(entry.history)) == (4, 4, 5), entry
assert len(list(Path(sys.argv[1]).glob("queue/**/*.json"))) == 1
assert not list(Path(sys.argv[1]).glob("**/.tmp-*")), "no temporary file is left"
"""


def start(code: str, spool: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(spool)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def test_two_processes_that_claim_200_entries_each_get_theirs_and_none_twice(spool: Spool) -> None:
    names = sorted(put(spool, State.INCOMING, number).name for number in range(200))
    claimants = [start(CLAIM_ALL, spool.root) for _ in range(2)]
    for claimant in claimants:
        assert claimant.stdin is not None
        claimant.stdin.write("go\n")
        claimant.stdin.flush()
    claimed = [claimant.communicate(timeout=60) for claimant in claimants]
    assert [error for _, error in claimed] == ["", ""]
    assert sorted(name for out, _ in claimed for name in out.split()) == names
    assert list(spool.places(State.INCOMING)) == []


@pytest.mark.parametrize("call", ["rename", "link", "unlink"])
def test_a_request_that_succeeds_and_reports_failure_changes_nothing(tmp_path: Path, call: str) -> None:
    """NFS repeats a request whose answer was lost; the winner is then told ENOENT or EEXIST."""
    error = {"rename": 2, "link": 17, "unlink": 2}[call]
    failing = shim.environment(tmp_path, call=call, path=str(tmp_path / "spool"), error=error, after=True)
    done = subprocess.run(
        [sys.executable, "-c", GO_ROUND, str(tmp_path / "spool")],
        env={**os.environ, **failing},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_loser_of_a_race_is_told_to_look_again(spool: Spool) -> None:
    place = put(spool, State.INCOMING)
    spool.claim(place)
    with pytest.raises(LostRaceError) as lost:
        spool.claim(place)
    assert lost.value.transient


def test_adding_an_entry_twice_changes_nothing(spool: Spool) -> None:
    spool.add(entry(attempts=3))
    spool.add(entry())
    (place,) = spool.places(State.OPEN)
    assert spool.read(place).attempts == 3


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE], ids=str)
def test_interrupted_take_is_undone(spool: Spool, state: State) -> None:
    """The owner died after the take: the entry goes back to where the last move had put it."""
    place = put(spool, State.OPEN)
    route = {
        State.OPEN: [], State.DEFERRED: [State.INCOMING, State.ACTIVE, State.DEFERRED],
        State.UNVERIFIED: [State.INCOMING, State.ACTIVE, State.UNVERIFIED],
        State.TRANSIT: [State.INCOMING, State.TRANSIT],
        State.DELIVERED: [State.INCOMING, State.ACTIVE, State.DELIVERED],
    }.get(state, [state])  # fmt: skip
    for target in route:
        place = spool.claim(place) if target is State.ACTIVE else spool.move(place, target)
    owned = spool.claim(place)
    back = spool.put_back(Place(owned.name, State.ACTIVE, owned.location, owned.token))
    assert (back.state, back.path) == (state, place.path)


def test_interrupted_move_is_completed(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner died between the new body and the second rename: what was decided stands."""
    place = put(spool, State.INCOMING)

    def die(name: str, path: Path) -> None:
        if name == "rename" and path.parent.name == "held":
            raise KeyboardInterrupt

    monkeypatch.setattr(durable, "on_step", die)
    with pytest.raises(KeyboardInterrupt):
        spool.move(place, State.HELD, why="a person said so")
    monkeypatch.setattr(durable, "on_step", None)
    (left,) = spool.places(State.ACTIVE)
    back = spool.put_back(left)
    assert back.state is State.HELD
    assert spool.read(back).history[-1]["why"] == "a person said so"


def test_entry_without_events_goes_where_its_manifest_says(spool: Spool) -> None:
    sealed = spool.claim(put(spool, State.INCOMING, 1, manifest_sha256="0" * 64))
    unsealed = spool.claim(put(spool, State.INCOMING, 2))
    assert spool.put_back(sealed).state is State.INCOMING
    assert spool.put_back(unsealed).state is State.OPEN


def test_owner_that_slept_too_long_does_not_bring_its_entry_back_to_life(spool: Spool) -> None:
    """Stopped in the middle of a move, put back and thrown away by a person, then continued."""
    owned = spool.claim(put(spool, State.INCOMING, manifest_sha256="0" * 64))
    elsewhere = Place(owned.name, State.ACTIVE, owned.location, owned.token)
    spool.move(spool.put_back(elsewhere), State.DISCARDED)
    with pytest.raises(LostRaceError):
        spool.move(owned, State.DEFERRED, entry())
    assert [place.state for place in spool.scan().values()] == [State.DISCARDED]


def test_owner_whose_entry_vanishes_before_the_last_rename_is_told_that_it_lost(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = spool.claim(put(spool, State.INCOMING))

    def stolen(name: str, path: Path) -> None:
        if name == "rename" and path.parent.name == "deferred":
            owned.path.unlink()

    monkeypatch.setattr(durable, "on_step", stolen)
    with pytest.raises(LostRaceError):
        spool.move(owned, State.DEFERRED)


def test_stopped_owner_that_continues_finds_its_entry_delivered_by_another(spool: Spool) -> None:
    """SIGSTOP between the take and the move of a real process, SIGCONT after somebody else did its work."""
    place = put(spool, State.INCOMING, manifest_sha256="0" * 64)
    code = """
import os, signal, sys
from pathlib import Path
from wandb_spool.spool import durable
from wandb_spool.spool.errors import LostRaceError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
spool = Spool.open(Path(sys.argv[1]))
owned = spool.claim(next(spool.places(State.INCOMING)))
print("claimed", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
try:
    spool.move(owned, State.DEFERRED)
except (LostRaceError, FileNotFoundError) as error:
    print("lost", flush=True)
"""
    owner = start(code, spool.root)
    assert owner.stdout is not None and owner.stdout.readline() == "claimed\n"
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT)
    (stale,) = spool.places(State.ACTIVE)
    again = spool.claim(spool.put_back(stale))
    spool.move(again, State.DELIVERED, entry(receipt={"format": 1}))
    owner.send_signal(18)
    assert owner.communicate(timeout=60) == ("lost\n", "")
    assert [found.state for found in spool.scan().values()] == [State.DELIVERED]
    assert place.name in spool.scan()


def test_only_the_owner_of_an_active_entry_rewrites_it(spool: Spool) -> None:
    with pytest.raises(TransitionError):
        spool.rewrite(put(spool, State.INCOMING), entry())


def test_damaged_entry_stays_where_it_is_when_somebody_moves_it(spool: Spool) -> None:
    for state in (State.INCOMING, State.DELIVERED):
        place = put(spool, state, list(State).index(state))
        place.path.write_text("{")
        with pytest.raises(DamagedError) as told:
            spool.move(place, State.DISCARDED)
        assert place.path.exists() and str(place.path.name.partition("~")[0])[:10] in str(told.value)
    assert list(spool.places(State.ACTIVE)) == []


def test_history_keeps_the_newest_fifty_events(spool: Spool) -> None:
    place = put(spool, State.INCOMING)
    for number in range(HISTORY_LIMIT + 10):
        place = spool.move(place, State.HELD if number % 2 == 0 else State.INCOMING, why=str(number))
    history = spool.read(place).history
    assert [event["why"] for event in history] == [str(number) for number in range(10, HISTORY_LIMIT + 10)]


def test_body_on_disk_is_the_documented_json(spool: Spool) -> None:
    place = put(spool, State.INCOMING)
    body = json.loads(place.path.read_text(encoding="utf-8"))
    documented = {
        "format", "launch", "fragment", "path", "run_id", "project", "entity", "name", "base_url", "created", "writer",
        "predecessor", "command", "manifest_sha256", "rows", "size_bytes", "attempts", "refusals", "not_before",
        "backoff_s", "reason", "mend", "target", "replay", "receipt", "history",
    }  # fmt: skip
    assert documented <= body.keys()
    assert body["format"] == 1
