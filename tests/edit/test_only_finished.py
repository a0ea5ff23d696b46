"""`sync --only finished` leaves what failed, was killed or told nothing, for a person to look at."""

from __future__ import annotations

from pathlib import Path

from delivery.fragments import Fragments
from delivery.syncing import Syncing

from wandb_spool.spool.log import RecordKind, drop_kinds, rewrite


def without_exit(log: Path) -> None:
    """As a process that was killed leaves it."""
    cut = log.with_suffix(".cut")
    rewrite(log, cut, drop_kinds(RecordKind.EXIT))
    cut.replace(log)


def test_only_runs_that_finished_are_sent(fragments: Fragments, syncing: Syncing) -> None:
    done = fragments.add("tiny", "done")
    killed = fragments.add("tiny", "killed", damage=without_exit)
    assert syncing.run("sync", "--only", "finished").returncode == 0
    assert fragments.state(done) == "delivered" and fragments.state(killed) == "incoming"
    assert syncing.run("sync").returncode == 0
    assert fragments.state(killed) == "delivered"


def test_restarted_run_that_finished_in_the_end_is_sent_whole(fragments: Fragments, syncing: Syncing) -> None:
    front = fragments.add("front", "again", damage=without_exit)
    assert syncing.run("sync", "--only", "finished").returncode == 0
    assert fragments.state(front) == "incoming"
    rear = fragments.add("rear", "again")
    assert syncing.run("sync", "--only", "finished").returncode == 0
    assert [fragments.state(name) for name in (front, rear)] == ["delivered", "delivered"]
    assert sorted(syncing.steps("again")) == list(range(180))
