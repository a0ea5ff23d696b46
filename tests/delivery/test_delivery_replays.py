"""A replay to the same target is the same run again, whatever else of it is delivered, waits or is replayed too."""

from __future__ import annotations

from wandb_spool.spool.entry import Replay
from wandb_spool.spool.states import State
from wandb_spool.syncer.replaying import replay

from .fragments import Fragments
from .syncing import Syncing, balance


def again(fragments: Fragments, name: str, asked: Replay | None = None) -> str:
    place = fragments.place(name)
    return replay(fragments.spool, fragments.entry(name), place.state, asked or Replay()).name


def test_an_original_and_its_replay_to_the_same_target_are_both_delivered_in_one_pass(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("tiny", "run")
    twice = again(fragments, name)
    result = syncing.once()
    assert [fragments.state(each) for each in (name, twice)] == ["delivered", "delivered"]
    assert result.exit_code == 0 and not result.elsewhere
    assert syncing.server.report().run("run").once_and_in_place


def test_two_replays_to_one_other_target_are_both_delivered_in_one_pass(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny", "run")
    assert syncing.once().exit_code == 0
    there = Replay(run_id="other")
    names = [again(fragments, name, there) for _ in range(2)]
    assert syncing.once().exit_code == 0
    assert [fragments.state(each) for each in names] == ["delivered"] * 2
    assert syncing.server.report().run("other").once_and_in_place


def test_replays_to_one_target_asked_in_different_words_are_both_delivered_in_one_pass(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("tiny", "run")
    assert syncing.once().exit_code == 0
    words = (Replay(), Replay(entity="rehearsal"), Replay(destination="default"))
    names = [again(fragments, name, asked) for asked in words]
    result = syncing.once()
    assert [fragments.state(each) for each in names] == ["delivered"] * 3
    assert not result.elsewhere


def test_a_replay_of_an_overlapped_fragment_is_no_conflict_and_undoes_nothing(
    syncing: Syncing, fragments: Fragments
) -> None:
    first, second = fragments.add("front", "run"), fragments.add("rear", "run")
    assert syncing.once().exit_code == 0
    before = syncing.server.report().run("run")
    twice = again(fragments, first)
    assert syncing.once().exit_code == 0
    assert [fragments.state(each) for each in (first, second, twice)] == ["delivered"] * 3
    after = syncing.server.report().run("run")
    assert (after.rows, after.config, after.summary) == (before.rows, before.config, before.summary)
    assert all(item.holds for item in balance(syncing)), [item.wrong for item in balance(syncing)]
    (found,) = balance(syncing)
    assert (found.rows_logged, found.delivered, found.superseded) == (200, 180, 20)


def test_a_quarantined_original_does_not_hold_up_its_replay(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny", "run")
    fragments.spool.move(fragments.place(name), State.QUARANTINED)
    twice = again(fragments, name)
    assert syncing.once().exit_code == 0
    assert fragments.state(twice) == "delivered"
