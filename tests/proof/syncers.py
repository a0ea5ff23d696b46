"""Who delivers in an attack, and how it is killed: one `sync` after another, or a daemon that goes on all the time.

Either is the real command as a process of its own while it is attacked. `settle` is what follows: everybody recovers
and goes on until all is delivered, as a person and a patient machine would have it.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from typing import Protocol

from delivery.syncing import kill_group

from wandb_spool.spool.states import State
from wandb_spool.syncer.progress import tree

from .arena import Arena
from .trainings import is_called, kill

PUSH = ("wandb-core", "wandb")
NAMES = {"wandb-core": "wandb-core of a push", "wandb": "wandb sync"}
DONE = {State.DELIVERED, State.VOID, State.DISCARDED}
SETTLES_WITHIN_S = 240.0


class Syncer(Protocol):
    """The attacked one."""

    name: str
    seals: bool
    """Whether it comes upon fragments at any moment, and seals them itself: then nobody else does."""

    def is_attacked(self, draw: random.Random) -> None:
        """Deliver, and be hit or not."""

    def settle(self) -> None:
        """Deliver until nothing is left to do."""

    def end(self) -> None:
        """Go, as one who was asked to."""


class Passes:
    """`wandb-spool sync`, again and again."""

    name, seals = "passes", False

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def is_attacked(self, draw: random.Random) -> None:
        draw.choice((self._at_a_step, self._at_a_step, self._seal_at_a_step, self._at_a_moment, self._its_push))(draw)

    def settle(self) -> None:
        self._arena.settle()

    def end(self) -> None:
        pass

    def _words(self) -> list[str]:
        return ["sync", "--spool", str(self._arena.spool.root), "--all", "--patience", "0.5"]

    def _at_a_step(self, draw: random.Random) -> None:
        """Before one of its durable steps; its `wandb sync` is left to itself."""
        self._arena.dying(self._words(), draw.randint(1, 45))

    def _seal_at_a_step(self, draw: random.Random) -> None:
        self._arena.fragments.add(draw.choice(("tiny", "rich")), seal=False)
        self._arena.dying(["recover", "--spool", str(self._arena.spool.root)], draw.randint(1, 14))

    def _at_a_moment(self, draw: random.Random) -> None:
        """With all that it started, at any time."""
        process = self._start()
        time.sleep(draw.uniform(0.3, 3.0))
        if _kill_tree(process):
            self._arena.kills.append("syncer and its children")

    def _its_push(self, draw: random.Random) -> None:
        """`wandb sync` or its wandb-core, while the syncer looks on."""
        process = self._start()
        kill_push(self._arena, draw, process.pid, lambda: process.poll() is None)
        process.communicate(timeout=120)

    def _start(self) -> subprocess.Popen[str]:
        return self._arena.syncing.start("sync", "--all", "--patience", "0.5")


class LongLived:
    """One daemon for the whole attack; where it is killed, another one takes over, as systemd would have it."""

    name, seals = "a daemon", True

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._told = arena.directory / "daemon.log"
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        syncing = self._arena.syncing
        syncing.write_configuration()
        with self._told.open("ab") as told:
            return subprocess.Popen(
                syncing.command("daemon", "--scan", "0.5", "--patience", "0.5"),
                env=syncing.environment(), cwd=syncing.home, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip

    def is_attacked(self, draw: random.Random) -> None:
        draw.choice((self._itself, self._with_its_children, self.loses_its_push))(draw)

    def _itself(self, draw: random.Random) -> None:
        time.sleep(draw.uniform(0.3, 3.0))
        self._process.kill()
        self._process.wait()
        self._arena.kills.append("daemon")
        self._process = self._start()

    def _with_its_children(self, draw: random.Random) -> None:
        time.sleep(draw.uniform(0.3, 3.0))
        if _kill_tree(self._process):
            self._arena.kills.append("daemon and its children")
        self._process = self._start()

    def loses_its_push(self, draw: random.Random) -> None:
        """`wandb sync` or its wandb-core dies, and the daemon lives on."""
        kill_push(self._arena, draw, self._process.pid, lambda: not set(self._arena.states()) <= DONE)

    def settle(self) -> None:
        """Nobody but the daemon delivers; a person releases what it set aside."""
        deadline = time.monotonic() + SETTLES_WITHIN_S
        while not set(self._arena.states()) <= DONE:
            if self._process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the daemon does not get done: {self._last_words()}")
            self._arena.release_quarantined()
            time.sleep(0.1)

    def end(self) -> None:
        """SIGTERM, and exit code 0 within ten seconds."""
        self._process.terminate()
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            raise AssertionError(f"the daemon does not end: {self._last_words()}") from None
        if code != 0:
            raise AssertionError(f"the daemon ended with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        return self._told.read_text(errors="replace")[-2000:]


def kill_push(arena: Arena, draw: random.Random, pid: int, works: Callable[[], bool]) -> None:
    """Kill what this syncer pushes with, as soon as there is something and a drawn while later."""
    wanted, wait_s = draw.choice(PUSH), draw.uniform(0.0, 0.5)
    deadline = time.monotonic() + 15
    while works() and time.monotonic() < deadline:
        found = [process for process in tree(pid)[1:] if is_called(process, wanted)]
        if found:
            time.sleep(wait_s)
            if kill(found[0]):
                arena.kills.append(NAMES[wanted])
            return
        time.sleep(0.02)


def _kill_tree(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> bool:
    """Kill a process and all that it started, whatever session that is in; False when it had ended before."""
    lives = process.poll() is None
    members = tree(process.pid) if lives else []
    kill_group(process)
    for member in members:
        kill(member)
    return lives


__all__ = ["LongLived", "Passes", "Syncer", "kill_push"]
