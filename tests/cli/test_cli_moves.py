"""What a person sets aside stays aside, and comes back unchanged."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import replace

import pytest

from wandb_spool.spool.entry import Replay
from wandb_spool.spool.states import State

from .command_line import CommandLine


def test_hold_and_release(two_runs: CommandLine) -> None:
    assert "incoming → held" in two_runs("hold", "alpha").stdout
    assert two_runs.counts() == {"incoming": 1, "held": 1}
    assert "held → incoming" in two_runs("release", "alpha").stdout
    assert two_runs.counts() == {"incoming": 2}


def test_several_runs_at_once(two_runs: CommandLine) -> None:
    two_runs("hold", "alpha", "beta", "alpha")
    assert two_runs.counts() == {"held": 2}


def test_run_that_cant_be_moved_is_told_and_the_others_are_moved(two_runs: CommandLine) -> None:
    two_runs("hold", "alpha")
    done = two_runs("hold", "alpha", "beta", code=2)
    assert "is held already; it was left alone" in done.stderr
    assert two_runs.counts() == {"held": 2}


def test_release_forgives_what_the_server_refused(two_runs: CommandLine) -> None:
    spool, place = two_runs.spool, two_runs.places()[0]
    refused = replace(
        spool.read(place),
        reason="refused: 400",
        mend="look",
        refusals=8,
        backoff_s=60.0,
        not_before="2099-01-01T00:00:00Z",
    )
    spool.move(place, State.QUARANTINED, refused)
    assert "quarantined: 1 × refused: 400 · look" in two_runs("status").stdout
    two_runs("release", "alpha")
    entry = spool.read(two_runs.places()[0])
    assert (entry.reason, entry.refusals, entry.backoff_s, entry.not_before) == (None, 0, 0.0, None)


def test_release_skip_lets_successors_go_on_and_leaves_the_run_where_it_is(two_runs: CommandLine) -> None:
    two_runs("hold", "alpha")
    assert "stays held" in two_runs("release", "--skip", "alpha").stdout
    (place,) = two_runs.places(State.HELD)
    assert two_runs.spool.read(place).extra["skipped"] is True
    assert "nothing was done" in two_runs("release", "--skip", "beta", code=2).stderr


def test_discard_needs_a_yes_where_nobody_can_be_asked(two_runs: CommandLine) -> None:
    done = two_runs("discard", "alpha", code=2)
    assert "no terminal to ask at, nothing was done" in done.stderr and "--yes" in done.stderr
    assert two_runs.counts() == {"incoming": 2}


def test_discarded_run_can_be_restored(two_runs: CommandLine) -> None:
    two_runs("discard", "--yes", "alpha")
    assert two_runs.counts() == {"incoming": 1, "discarded": 1}
    two_runs("verify", "alpha")
    two_runs("discard", "--restore", "alpha")
    assert two_runs.counts() == {"incoming": 2}
    assert "is not discarded" in two_runs("discard", "--restore", "alpha", code=2).stderr


@pytest.mark.parametrize(("typed", "left"), [(b"y\n", 1), (b"n\n", 2), (b"\n", 2), (b"\x04", 2)])
def test_discard_asks_at_a_terminal(two_runs: CommandLine, typed: bytes, left: int) -> None:
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "wandb_spool", "discard", "alpha"]
    with subprocess.Popen(
        words, env=two_runs.environment(), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as asked:
        os.write(master, typed)
        _, told = asked.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    assert b"Discard 1 fragment with 10 rows that were not delivered? [y/N]" in told
    assert two_runs.counts()["incoming"] == left


# -- RUN ---------------------------------------------------------------------------------------------------------------


def test_run_is_found_by_every_name_that_it_has(two_runs: CommandLine) -> None:
    spool = two_runs.spool
    entry = spool.read(two_runs.places()[0])
    directory = entry.run_directory(spool.root)
    names = [entry.name, entry.fragment, "alpha", str(directory), f"{directory}/", str(next(directory.glob("*.wandb")))]
    assert {two_runs.json("show", name)["entry"] for name in names} == {entry.name}
    relative = os.path.relpath(directory, two_runs.home)
    assert two_runs.json("show", relative)["entry"] == entry.name


def test_launch_with_several_runs_is_ambiguous_and_they_are_listed(two_runs: CommandLine) -> None:
    launch = two_runs.spool.read(two_runs.places()[0]).launch
    (line,) = two_runs("show", launch, code=2).stderr.splitlines()
    assert "is ambiguous; say which" in line and "(alpha, incoming)" in line and "(beta, incoming)" in line


def test_same_run_id_in_two_projects_is_ambiguous(two_runs: CommandLine) -> None:
    spool, place = two_runs.spool, two_runs.places()[0]
    entry = spool.read(place)
    name = entry.name.replace(entry.launch[-8:], "00000000")
    other = replace(entry, name=name, launch=name.partition(".")[0], project="elsewhere")
    spool.add(other, State.INCOMING)
    assert "is ambiguous" in two_runs("hold", "alpha", code=2).stderr
    two_runs("hold", name)


def test_fragments_of_one_run_are_meant_together_by_its_id(two_runs: CommandLine) -> None:
    spool, place = two_runs.spool, two_runs.places()[0]
    entry = spool.read(place)
    name = entry.name.replace(entry.launch[-8:], "00000000")
    spool.add(replace(entry, name=name, launch=name.partition(".")[0]), State.INCOMING)
    two_runs("hold", "alpha")
    assert two_runs.counts() == {"held": 2, "incoming": 1}


def test_replay_is_a_delivery_of_its_own(two_runs: CommandLine) -> None:
    spool, place = two_runs.spool, two_runs.places()[0]
    entry = spool.read(place)
    spool.add(replace(entry, name=f"{entry.name}.r0123abcd", replay=Replay(project="q")), State.INCOMING)
    assert "is ambiguous" in two_runs("hold", "alpha", code=2).stderr
    two_runs("hold", entry.name)
    assert [item.name for item in two_runs.places(State.HELD)] == [entry.name]


def test_run_that_a_syncer_has_taken_is_left_alone(two_runs: CommandLine) -> None:
    taken = two_runs.spool.claim(two_runs.places()[0])
    assert "is being delivered right now" in two_runs("hold", "alpha", code=2).stderr
    assert taken.path.exists()
