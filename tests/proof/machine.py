"""Spool, syncer and a spool beyond an air gap, driven by drawn rules against a model that says where each fragment is.

The model is `where`: of each entry one word. Each rule does one thing with the product and says in one line what the
model makes of it; everything else is the product's. Runs are single fragments, or chains whose fragments overlap as
restarts from older checkpoints do.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from delivery.fragments import Fragments, Templates
from delivery.syncing import Syncing
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wandb_spool.cli import answer
from wandb_spool.spool import durable
from wandb_spool.spool.entry import Replay
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer import deliver
from wandb_spool.syncer.balance import balances
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.replaying import replay
from wandb_spool.syncer.service import Options

from .arena import LIMITS, judge
from .pusher import Pusher

FRAGMENTS = 7  # at most, in one example
MEMORY = Path("/dev/shm")  # what is attacked here is the order of things, not the disk: other attacks cut its power
MOODS = st.sampled_from(["well", "well", "half", "lies", "twice", "away"])
CHAIN = ("front", "rear", "third")
ROWS = {"tiny": 20, "front": 100, "rear": 100, "third": 50}
WHERE = {
    State.OPEN: "open", State.INCOMING: "waiting", State.DEFERRED: "waiting", State.HELD: "held",
    State.TRANSIT: "transit", State.DISCARDED: "discarded", State.DELIVERED: "delivered",
}  # fmt: skip
SAME_TARGET = "tiny, again there"
OWED = ("open", "waiting", "held", "transit")
AT_HOME = ("open", "waiting", "held")


class Crash(BaseException):
    """The process is gone."""


class SpoolMachine(RuleBasedStateMachine):
    """One spool, one syncer, one server; and a spool with a syncer behind the gap."""

    templates: Templates
    steps_taken = 0  # over all examples

    @initialize()
    def begin(self) -> None:
        place = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="model-", dir=place))
        self.spool = Spool.create(self.directory / "spool")
        self.beyond = Spool.create(self.directory / "beyond")
        self.server = RehearsalServer(self.directory / "server").start()
        self.fragments = Fragments(self.spool, self.templates)
        self.syncing = Syncing(self.spool, self.server, self.directory, LIMITS)
        self.syncing_beyond = Syncing(self.beyond, self.server, self.directory, LIMITS)
        self.pusher = Pusher()
        self.where: dict[str, str] = {}
        self.run_of: dict[str, tuple[str, int]] = {}  # and the fragment's place in its run
        self.edited: dict[str, str] = {}
        self.away: set[str] = set()  # what came to the spool beyond, and whatever became of it here
        self.arrived: set[str] = set()  # what was delivered from there

    def teardown(self) -> None:
        try:
            self._end_well()
            self._judge()
        finally:
            self.server.stop()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _end_well(self) -> None:
        """Everybody does what was left to do."""
        for name in self._all("held"):
            self._move(name, State.INCOMING)
        if self.away:
            self.deliver_beyond()
            self.receipts()
        self._pass("well")
        assert not self._all(*OWED), self.where

    def _judge(self) -> None:
        verdict = judge(self._known(), self.spool, self.syncing, self.server)
        assert verdict.clean and not verdict.lost, str(verdict)
        for run_id, name in self.edited.items():
            if "delivered" in {self.where[each] for each in self._run(run_id)}:
                shown = self.server.report().run(run_id).display_name
                assert shown == name, f"{run_id} is shown as {shown!r}, not as {name!r}"

    # -- what happens: each rule says in one line what the model makes of it ------------------------------------------

    @precondition(lambda self: len(self.where) < FRAGMENTS)
    @rule(chain=st.booleans())
    def log(self, chain: bool) -> None:
        name = self._add("front", f"chain-{len(self.where)}") if chain else self._add("tiny", f"tiny-{len(self.where)}")
        self.where[name] = "open"

    @precondition(lambda self: len(self.where) < FRAGMENTS and bool(self._unended()))
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """The job of a chain goes on in a new fragment, from an older checkpoint than it had reached."""
        run_id, index = data.draw(st.sampled_from(self._unended()))
        self.where[self._add(CHAIN[index], run_id, index)] = "open"

    @precondition(lambda self: self._any("open"))
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        name = self._draw(data, "open")
        seal_fragment(self.spool, self.fragments.place(name), hook=True)
        self.where[name] = "waiting"

    @rule(mood=MOODS)
    def deliver(self, mood: str) -> None:
        """A pass; whoever is open is recovered by it. The push goes well or not, or the server is away."""
        self._pass(mood)

    @precondition(lambda self: self._any("waiting"))
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "waiting"), State.HELD)

    @precondition(lambda self: self._any("held"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._move(self._draw(data, "held"), State.INCOMING)

    @precondition(lambda self: bool(self._disposable()))
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self._disposable()))
        self._say("discard", name, "--yes")
        self.where[name] = "discarded"

    @precondition(lambda self: bool(self._restorable()))
    @rule(data=st.data())
    def undiscard(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self._restorable()))
        self._say("discard", "--restore", name)
        self.where[name] = "waiting"

    @rule()
    def balance(self) -> None:
        """What is counted here, without asking the server, is what the model says."""
        configuration, environ = self.syncing.configuration(), self.syncing.environment()
        found = balances(self.spool, self._known(), configuration, environ, remote=False)
        owed = {name: self._rows(name) for name in self._all(*OWED)}
        waiting = {f"{balance.run_id} {number}": balance.waiting for number, balance in enumerate(found)}
        assert sum(waiting.values()) == sum(owed.values()), f"the model says {owed}, and the balance {waiting}"

    @precondition(lambda self: bool(self._editable()))
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self._editable()))
        name = f"edited {len(self.edited)} {self.steps_taken}"
        self._say("edit", run_id, "--name", name)
        self.edited[run_id] = name

    @precondition(lambda self: self._any("delivered") and len(self.where) < FRAGMENTS + 3)
    @rule(data=st.data(), elsewhere=st.booleans())
    def replay(self, data: st.DataObject, elsewhere: bool) -> None:
        singles = [name for name in self._all("delivered") if self.run_of[name][0].startswith("tiny")]
        if singles:
            name = data.draw(st.sampled_from(singles))
            asked = Replay(run_id=f"again-{len(self.where)}") if elsewhere else Replay()
            again = replay(self.spool, self.fragments.entry(name), State.DELIVERED, asked).name
            self.run_of[again] = (f"tiny, again {len(self.where)}" if elsewhere else SAME_TARGET, 0)
            self.where[again] = "waiting"

    @precondition(lambda self: self._any("delivered"))
    @rule()
    def prune(self) -> None:
        """What is delivered goes, unless something of the same run is still owed."""
        self._say("prune", "--older-than", "0s", "--rehearsal", "--yes")
        owed = {self._origin(name) for name in self._all(*OWED)}
        self._becomes("pruned", [name for name in self._all("delivered") if self._origin(name) not in owed])

    @precondition(lambda self: bool(self._packable()))
    @rule()
    def pack(self) -> None:
        """Whole runs that wait cross the gap, and arrive."""
        names, bundle = self._packable(), self.directory / f"bundle-{self.steps_taken}.tar.zst"
        self._say("pack", "--out", str(bundle), *names)
        self._say("unpack", str(bundle), spool=self.beyond)
        self._say("unpack", str(bundle), spool=self.beyond)  # the disk was read twice
        self.away |= set(names)
        self._becomes("transit", names)

    @precondition(lambda self: bool(self.away - self.arrived))
    @rule()
    def deliver_beyond(self) -> None:
        self.pusher.mood = "well"
        for _ in range(3):
            self._once(self.syncing_beyond)
        places = self.beyond.scan()
        told = "\n".join(self.syncing_beyond.told[-10:])
        assert set(places) == self.away, f"{sorted(places)} are there, not {sorted(self.away)}"
        left = {name: place.state for name, place in places.items() if place.state is not State.DELIVERED}
        assert not left, f"{left}\n{told}"
        self.arrived = set(self.away)

    @precondition(lambda self: bool(self.arrived))
    @rule()
    def receipts(self) -> None:
        """They come home: what is still owed of them is delivered."""
        bundle = self.directory / f"receipts-{self.steps_taken}.tar.zst"
        self._say("pack", "--receipts", "--out", str(bundle), spool=self.beyond)
        self._say("unpack", str(bundle), partly=any(self.where[name] == "discarded" for name in self.arrived))
        self._becomes("delivered", [name for name in self._all("transit", "waiting", "held") if name in self.arrived])

    @precondition(lambda self: self._any("transit"))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        """A person fears for the disk; the bundle may be delivered all the same."""
        name = self._draw(data, "transit")
        self._say("release", "--transit", "--yes", name)
        self.where[name] = "waiting"

    @precondition(lambda self: self._any(*AT_HOME))
    @rule(data=st.data(), step=st.integers(0, 14))
    def crash(self, data: st.DataObject, step: int) -> None:
        """A person's move or a seal dies before one of its durable steps; the next one finds what is left."""
        name = self._draw(data, *AT_HOME)
        before = self.where[name]
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
        self._find(name, before, after)

    @precondition(lambda self: self._any("open", "waiting"))
    @rule(step=st.integers(0, 30))
    def crash_in_a_pass(self, step: int) -> None:
        self.pusher.mood = "well"
        with self._dying(step):
            try:
                self._once()
            except Crash:
                pass
        self._put_back()
        for name in self._all("open", "waiting"):
            self._find(name, "open", "waiting", "delivered")

    @precondition(lambda self: self._any("delivered"))
    @rule(step=st.integers(0, 12))
    def crash_in_a_prune(self, step: int) -> None:
        """It goes on where it was, and nothing that is owed is gone."""
        with self._dying(step), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                answer(["prune", "--spool", str(self.spool.root), "--older-than", "0s", "--rehearsal", "--yes"])
            except Crash:
                pass
        self.prune()

    @invariant()
    def every_entry_is_there_once(self) -> None:
        SpoolMachine.steps_taken += 1
        assert set(self.spool.scan()) == set(self.where)
        for name in self._all(*OWED):
            assert self.fragments.entry(name).run_directory(self.spool.root).is_dir(), f"the bytes of {name} are gone"

    # -- how ---------------------------------------------------------------------------------------------------------

    def _add(self, shape: str, run_id: str, index: int = 0) -> str:
        name = self.fragments.add(shape, run_id, seal=False)
        self.run_of[name] = (run_id, index)
        return name

    def _known(self) -> list[Known]:
        return [Known(self.spool.read(place), place.state) for place in self.spool.scan().values()]

    def _pass(self, mood: str) -> None:
        self.pusher.mood = mood
        if mood == "away":
            self.server.down()
        try:
            self._once()
            for _ in range(4 if mood in ("well", "twice") else 0):  # entries of one target run take turns
                if not self._all("open", "waiting") or self._all_delivered():
                    break
                self._once()
        finally:
            self.server.up()
        for name in self._all("open", "waiting"):
            if mood in ("well", "twice") and not self._blocked(name):
                self._find(name, "delivered")
            else:
                self._find(name, "waiting", *(() if mood == "away" else ("delivered",)))

    def _all_delivered(self) -> bool:
        ours = [name for name in self._all("open", "waiting") if not self._blocked(name)]
        return all(self.fragments.place(name).state is State.DELIVERED for name in ours)

    def _blocked(self, name: str) -> bool:
        """A fragment waits for an earlier one that a person holds, or that is on its way across the gap."""
        run_id, index = self.run_of[name]
        return any(
            run == run_id and earlier < index and self.where[other] in ("held", "transit")
            for other, (run, earlier) in self.run_of.items()
        )

    def _once(self, syncing: Syncing | None = None) -> None:
        with mock.patch.object(deliver, "push", self.pusher):
            (syncing or self.syncing).once(Options(patience_s=0.0, everything=True, stale_after_s=0.0))

    def _find(self, name: str, *expected: str) -> None:
        state = self.fragments.place(name).state
        found = WHERE.get(state, state.value)
        told = "\n".join(self.syncing.told[-10:])
        assert found in expected, f"{name}: {found}, not {expected}: {self.fragments.entry(name)}\n{told}"
        self.where[name] = found

    def _move(self, name: str, state: State) -> None:
        self.spool.move(self.fragments.place(name), state)
        self.where[name] = WHERE[state]

    def _say(self, command: str, *words: str, spool: Spool | None = None, partly: bool = False) -> None:
        """A command as a person types it; it must succeed (or do a part and say so)."""
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(told):
            code = answer([command, "--spool", str((spool or self.spool).root), *words])
        assert code == (3 if partly else 0), f"{command} {words}: {code}\n{told.getvalue()}"

    def _becomes(self, where: str, names: Sequence[str]) -> None:
        self.where.update(dict.fromkeys(names, where))

    def _all(self, *where: str) -> list[str]:
        return [name for name, at in self.where.items() if at in where]

    def _any(self, *where: str) -> bool:
        return bool(self._all(*where))

    def _draw(self, data: st.DataObject, *where: str) -> str:
        return data.draw(st.sampled_from(self._all(*where)))

    def _run(self, run_id: str) -> list[str]:
        return [name for name, (run, _) in self.run_of.items() if run == run_id]

    def _origin(self, name: str) -> str:
        """The run in whose name an entry was logged; a replay has that of its original."""
        return str(self.fragments.entry(name).run_id)

    def _packable(self) -> list[str]:
        whole = [run for run, _ in self.run_of.values() if {self.where[name] for name in self._run(run)} == {"waiting"}]
        return [name for name in self.where if self.run_of[name][0] in whole]

    def _rows(self, name: str) -> int:
        """What is owed of it; a replay to the same target owes nothing that is not delivered."""
        if self.run_of[name][0] == SAME_TARGET:
            return 0
        return ROWS[CHAIN[self.run_of[name][1]] if self._is_chain(name) else "tiny"]

    def _unended(self) -> list[tuple[str, int]]:
        """Chains that may go on, and with which fragment."""
        lengths: dict[str, int] = {}
        for run_id, _ in self.run_of.values():
            lengths[run_id] = lengths.get(run_id, 0) + 1
        beyond = {self.run_of[name][0] for name in self.away}  # beyond the gap nobody knows what follows
        ended = {run for run, length in lengths.items() if length == len(CHAIN) or not run.startswith("chain")}
        return [(run, length) for run, length in lengths.items() if run not in ended | beyond]

    def _disposable(self) -> list[str]:
        """What waits; of a chain only as long as nothing of it went anywhere, or its rows would be in others' way."""
        found = self._all("held", "waiting")
        return [name for name in found if not self._is_chain(name) or self._untouched(self.run_of[name][0])]

    def _untouched(self, run_id: str) -> bool:
        names = self._run(run_id)
        return not self.away & set(names) and all(self.fragments.entry(name).target is None for name in names)

    def _is_chain(self, name: str) -> bool:
        return self.run_of[name][0].startswith("chain")

    def _restorable(self) -> list[str]:
        """What was discarded and has its bytes; those of a replay go with its original."""
        found = self._all("discarded")
        return [name for name in found if self.fragments.entry(name).run_directory(self.spool.root).is_dir()]

    def _editable(self) -> list[str]:
        """Runs of which nothing went anywhere."""
        runs = {run_id for run_id, _ in self.run_of.values() if "again" not in run_id}
        return sorted(run for run in runs if self._is_here(run))

    def _is_here(self, run_id: str) -> bool:
        names = set(self._run(run_id))
        return not names & self.away and {self.where[name] for name in names} <= {"waiting", "held"}

    def _put_back(self) -> None:
        """What `recover` does when the owner is gone; here the process that died is this one."""
        for place in list(self.spool.places(State.ACTIVE)):
            self.spool.put_back(place)
        for lease in self.spool.paths.leases.glob("[!.]*.json"):
            lease.unlink()

    @contextmanager
    def _dying(self, step: int) -> Iterator[None]:
        left = step

        def on_step(name: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash(name)

        with mock.patch.object(durable, "on_step", on_step):
            yield
