"""A daemon that seals what it finds finished never gets in the way of the program that seals it too."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.recover import Observations, recover
from wandb_spool.spool.states import State

from .fragments import Fragments, scrubbed

INSIDE = """
import wandb_spool
for number in range(4):
    run = wandb_spool.init(project="p", id=f"run-{number}")
    run.log({"loss": number})
    run.finish()
raise SystemExit(7)
"""
UNDER_THE_LAUNCHER = INSIDE.replace("wandb_spool", "wandb")


@pytest.fixture
def sealing(spool: Spool) -> Iterator[None]:
    """Somebody who seals, without pause, whatever is finished."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            recover(spool, Observations(), thorough=True, writers_timeout_s=0.0)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("sealing")
@pytest.mark.parametrize("words", [[], ["-m", "wandb_spool", "run", "-q", "--"]], ids=["inside", "launcher"])
def test_a_program_whose_fragments_are_sealed_by_somebody_else_ends_as_it_would_have(
    spool: Spool, home: Path, tmp_path: Path, words: list[str]
) -> None:
    program = [sys.executable, "-c", UNDER_THE_LAUNCHER if words else INSIDE]
    command = [sys.executable, *words, *program] if words else program
    environment = scrubbed(home, WANDB_SILENT="true", WANDB_SPOOL_DIR=str(spool.root))
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr and "failed" not in done.stderr, done.stderr
    recover(spool, Observations(), thorough=True)
    places = [place for state in State for place in spool.places(state)]
    assert [place.state for place in places] == [State.INCOMING] * 4, "each is sealed once"
    assert [spool.repair(), {spool.read(place).rows for place in places}] == [[], {1}]


class _Moving(Spool):
    """A spool in which an entry moves while its directories are listed."""

    def places(self, state: State) -> Iterator[Place]:
        found = list(super().places(state))
        if state is State.INCOMING:
            for place in list(super().places(State.ACTIVE)):
                super().release(place, State.INCOMING)
        return iter(found)


def test_an_entry_that_moves_while_it_is_looked_for_is_found(spool: Spool, fragments: Fragments) -> None:
    name = fragments.add("tiny")
    spool.claim(fragments.place(name))
    moving = _Moving(spool.paths, spool.spool_id)
    assert moving.find(name) is not None
