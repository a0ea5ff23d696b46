"""A push that writes a run's lines anew and is cut undoes no delivered fragment for good, whatever comes then."""

from __future__ import annotations

import shutil

import pytest

from wandb_spool.spool.pruning import candidates
from wandb_spool.spool.repairs import marks
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import Fault, FaultKind, LineCounts

from .fragments import Fragments
from .syncing import Syncing, balance


@pytest.fixture
def cut(syncing: Syncing, fragments: Fragments) -> tuple[str, str]:
    """A delivered fragment, and its successor whose push wrote the first lines anew and lost the others."""
    syncing.server.set_behaviour(line_counts=LineCounts.NULL)
    first = fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    second = fragments.add("rear", "run")
    syncing.server.set_faults([Fault(FaultKind.STATUS, "file_stream", status=500)])
    syncing.once(patience_s=0.1)
    assert fragments.state(second) == "deferred"
    syncing.server.forget_lines("run", keep=30)
    assert syncing.steps("run") == list(range(30))
    syncing.server.clear_faults()
    return first, second


def test_the_next_push_of_the_successor_mends_the_run(
    syncing: Syncing, fragments: Fragments, cut: tuple[str, str]
) -> None:
    assert syncing.until_done().exit_code == 0
    assert [fragments.state(name) for name in cut] == ["delivered"] * 2
    assert sorted(syncing.values("run")) == list(range(180))
    assert not list(marks(syncing.spool))
    assert all(item.holds for item in balance(syncing))


@pytest.mark.parametrize("fate", [State.DISCARDED, State.HELD, State.QUARANTINED], ids=str)
def test_a_pass_mends_the_run_when_the_successor_will_not_be_sent(
    syncing: Syncing, fragments: Fragments, cut: tuple[str, str], fate: State
) -> None:
    second = cut[1]
    fragments.spool.move(fragments.place(second), fate)
    result = syncing.until_done()
    assert result.exit_code == 0 and fragments.state(second) == fate.value
    assert syncing.steps("run") == list(range(100)), "what was delivered is there again"
    assert not list(marks(syncing.spool))
    assert any("again" in line for line in syncing.told)
    assert syncing.once().outcomes == []


def test_nothing_of_the_run_is_pruned_while_it_may_be_undone(
    syncing: Syncing, fragments: Fragments, cut: tuple[str, str]
) -> None:
    first, second = cut
    fragments.spool.move(fragments.place(second), State.DISCARDED)
    (found,) = candidates(syncing.spool, older_than_s=0.0, rehearsal=True)
    assert (found.entry.name, found.kept) == (first, "a push that was cut may have undone it")
    assert syncing.until_done().exit_code == 0
    kept = {item.entry.name: item.kept for item in candidates(syncing.spool, older_than_s=0.0, rehearsal=True)}
    assert kept == {first: None}


def test_rows_that_are_not_in_the_spool_are_never_replaced(syncing: Syncing, fragments: Fragments) -> None:
    syncing.server.set_behaviour(line_counts=LineCounts.NULL)
    first = fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    shutil.rmtree(fragments.entry(first).run_directory(syncing.spool.root))  # as prune does
    second = fragments.add("third", "run")
    syncing.once()
    entry = fragments.entry(second)
    assert fragments.state(second) == "quarantined" and "would replace them" in (entry.reason or "")
    assert "--id" in (entry.mend or "")
    assert syncing.steps("run") == list(range(100))


def test_rows_that_a_server_forgot_go_with_the_runs_next_push(syncing: Syncing, fragments: Fragments) -> None:
    fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    syncing.server.forget_lines("run", keep=30)
    fragments.add("rear", "run")
    assert syncing.until_done().exit_code == 0
    assert sorted(syncing.values("run")) == list(range(180))
    assert all(item.holds for item in balance(syncing))


@pytest.mark.parametrize("fate", [State.HELD, State.QUARANTINED], ids=str)
def test_what_was_set_aside_supersedes_nothing(syncing: Syncing, fragments: Fragments, fate: State) -> None:
    fragments.add("front", "run")
    second = fragments.add("rear", "run")
    fragments.spool.move(fragments.place(second), fate)
    assert syncing.once().exit_code == 0
    assert syncing.steps("run") == list(range(100)), "the restart may never be sent"
    fragments.spool.move(fragments.place(second), State.INCOMING)
    assert syncing.until_done().exit_code == 0
    assert syncing.steps("run") == list(range(180))
    assert all(item.holds for item in balance(syncing))
