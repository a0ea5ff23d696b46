"""Spool and syncer against a model of ten lines: whatever people, crashes and servers do, each run is where it belongs.

The model knows one thing of each run: open, waiting, held, discarded or delivered. Everything else is the product's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from delivery.fragments import Fragments, Templates
from delivery.syncing import Syncing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wandb_spool.spool import durable
from wandb_spool.spool.entry import Replay
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer import deliver
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.replaying import replay
from wandb_spool.syncer.service import Options

from .arena import LIMITS, judge
from .pusher import Pusher

EXAMPLES, STEPS = 65, 50
RUNS = 6  # at most, in one example
LEAST_STEPS = 2000
MEMORY = Path("/dev/shm")  # what is attacked here is the order of things, not the disk: other attacks cut its power
MOODS = st.sampled_from(["well", "well", "half", "lies", "twice", "away"])
WHERE = {
    State.OPEN: "open", State.INCOMING: "waiting", State.DEFERRED: "waiting", State.HELD: "held",
    State.DISCARDED: "discarded", State.DELIVERED: "delivered",
}  # fmt: skip


class Crash(BaseException):
    """The process is gone."""


class SpoolMachine(RuleBasedStateMachine):
    """One spool, one syncer, one server."""

    templates: Templates
    steps_taken = 0  # over all examples

    @initialize()
    def begin(self) -> None:
        place = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="model-", dir=place))
        self.spool = Spool.create(self.directory / "spool")
        self.server = RehearsalServer(self.directory / "server").start()
        self.fragments = Fragments(self.spool, self.templates)
        self.syncing = Syncing(self.spool, self.server, self.directory, LIMITS)
        self.pusher = Pusher()
        self.model: dict[str, str] = {}
        self.copies: set[str] = set()  # replays to the same target, whose rows are delivered already

    def teardown(self) -> None:
        try:
            self.pusher.mood = "well"
            self.server.up()
            self._pass()
            entries = self.syncing_entries()
            verdict = judge(entries, self.spool, self.syncing, self.server)
            assert not (verdict.missing or verdict.lost or verdict.wrong), str(verdict)
            owed = [name for name, where in self.model.items() if where in ("held", "open", "waiting")]
            assert verdict.waiting == 20 * len(set(owed) - self.copies)
            assert "waiting" not in self.model.values()
        finally:
            self.server.stop()
            shutil.rmtree(self.directory, ignore_errors=True)

    def syncing_entries(self) -> list[Known]:
        return [Known(self.spool.read(place), place.state) for place in self.spool.scan().values()]

    # -- what happens ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model) < RUNS)
    @rule()
    def log(self) -> None:
        self.model[self.fragments.add("tiny", seal=False)] = "open"

    @precondition(lambda self: "open" in self.model.values())
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        name = self._draw(data, "open")
        seal_fragment(self.spool, self.fragments.place(name), hook=True)
        self.model[name] = "waiting"

    @rule(mood=MOODS)
    def deliver(self, mood: str) -> None:
        """A pass; whoever is open is recovered by it. The push goes well or not, or the server is away."""
        self.pusher.mood = mood
        if mood == "away":
            self.server.down()
        try:
            self._pass(answered=mood != "away")
        finally:
            self.server.up()

    @precondition(lambda self: "waiting" in self.model.values())
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "waiting"), State.HELD)

    @precondition(lambda self: "held" in self.model.values())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "held"), State.INCOMING)

    @precondition(lambda self: bool({"held", "waiting"} & set(self.model.values())))
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "held", "waiting"), State.DISCARDED)

    @precondition(lambda self: "discarded" in self.model.values())
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "discarded"), State.INCOMING)

    @precondition(lambda self: "delivered" in self.model.values() and len(self.model) < RUNS + 4)
    @rule(data=st.data(), elsewhere=st.booleans())
    def replay(self, data: st.DataObject, elsewhere: bool) -> None:
        name = self._draw(data, "delivered")
        asked = Replay(run_id=f"again-{len(self.model)}-{self.directory.name}") if elsewhere else Replay()
        again = replay(self.spool, self.fragments.entry(name), State.DELIVERED, asked).name
        self.model[again] = "waiting"
        if not elsewhere:
            self.copies.add(again)

    @precondition(lambda self: bool({"open", "held", "waiting"} & set(self.model.values())))
    @rule(data=st.data(), step=st.integers(0, 14))
    def crash(self, data: st.DataObject, step: int) -> None:
        """A person's move or a seal dies before one of its durable steps; the next one finds what is left."""
        name = self._draw(data, "open", "held", "waiting")
        before = self.model[name]
        after = {"open": "waiting", "held": "waiting", "waiting": "held"}[before]
        with self._dying(step):
            try:
                if before == "open":
                    seal_fragment(self.spool, self.fragments.place(name), hook=True)
                else:
                    self.spool.move(self.fragments.place(name), State.HELD if after == "held" else State.INCOMING)
            except Crash:
                pass
        self._put_back()
        found = WHERE[self.fragments.place(name).state]
        assert found in (before, after)
        self.model[name] = found

    @precondition(lambda self: bool({"open", "waiting"} & set(self.model.values())))
    @rule(step=st.integers(0, 30))
    def crash_in_a_pass(self, step: int) -> None:
        self.pusher.mood = "well"
        with self._dying(step):
            try:
                self._once()
            except Crash:
                pass
        self._put_back()
        for name, where in self.model.items():
            if where in ("open", "waiting"):
                self.model[name] = WHERE[self.fragments.place(name).state]
                assert self.model[name] in ("open", "waiting", "delivered")

    @invariant()
    def count(self) -> None:
        SpoolMachine.steps_taken += 1

    # -- how ---------------------------------------------------------------------------------------------------------

    def _pass(self, *, answered: bool = True) -> None:
        told = self.pusher.mood in ("well", "twice") and answered
        self._once()
        for name, where in self.model.items():
            if where in ("open", "waiting"):
                found = WHERE[self.fragments.place(name).state]
                assert found == ("delivered" if told else found), self._told(name)
                assert found in ("waiting", "delivered")
                assert answered or found == "waiting", "nothing is delivered that could not be read back"
                self.model[name] = found

    def _once(self) -> None:
        with mock.patch.object(deliver, "push", self.pusher):
            self.syncing.once(Options(patience_s=0.0, everything=True, stale_after_s=0.0))
        self._same()

    def _told(self, name: str) -> str:
        return f"{name}: {self.fragments.entry(name)}\n" + "\n".join(self.syncing.told[-10:])

    def _move(self, name: str, state: State) -> None:
        self.spool.move(self.fragments.place(name), state)
        self.model[name] = WHERE[state]
        self._same()

    def _same(self) -> None:
        """Each entry is there, once."""
        assert set(self.spool.scan()) == set(self.model)

    def _draw(self, data: st.DataObject, *where: str) -> str:
        return data.draw(st.sampled_from([name for name, at in self.model.items() if at in where]))

    def _put_back(self) -> None:
        """What `recover` does when the owner is gone; here the process that died is this one."""
        for place in list(self.spool.places(State.ACTIVE)):
            self.spool.put_back(place)
        for lease in self.spool.paths.leases.glob("[!.]*.json"):
            lease.unlink()
        self._same()

    def _dying(self, step: int) -> mock._patch[object]:
        left = step

        def on_step(name: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash(name)

        return mock.patch.object(durable, "on_step", on_step)


@pytest.fixture
def machine(templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SpoolMachine]]:
    monkeypatch.setenv("WANDB_SPOOL_CACHE_DIR", str(tmp_path / "cache"))
    SpoolMachine.templates, SpoolMachine.steps_taken = templates, 0
    yield SpoolMachine


def test_spool_and_syncer_do_what_a_model_of_ten_lines_says(machine: type[SpoolMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert machine.steps_taken >= LEAST_STEPS
    print(f"{machine.steps_taken} steps")
