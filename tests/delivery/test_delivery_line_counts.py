"""Servers differ in what they tell a resuming client of the lines that they hold: every step arrives once all the same.

`wandb sync` writes behind that many lines. A server that tells 0 or nothing is written to from its first line on, so
missing rows must not be sent alone there: they would replace others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import DuplicateSteps, Fault, FaultKind, LineCounts, StreamTail

from .fragments import Fragments
from .syncing import Syncing, balance


@pytest.mark.parametrize("duplicates", [DuplicateSteps.DROP, DuplicateSteps.KEEP], ids=lambda item: item.value)
@pytest.mark.parametrize("tail", list(StreamTail), ids=lambda item: item.value)
@pytest.mark.parametrize("counts", list(LineCounts), ids=lambda item: item.value)
def test_every_step_arrives_once_whatever_the_server_tells_of_its_lines(
    syncing: Syncing, fragments: Fragments, counts: LineCounts, tail: StreamTail, duplicates: DuplicateSteps
) -> None:
    syncing.server.set_behaviour(line_counts=counts, stream_tail=tail, duplicates=duplicates)
    fragments.add("front", "chain")
    syncing.until_done()
    fragments.add("rear", "chain")
    syncing.until_done()
    assert syncing.steps("chain") == list(range(180))
    report = syncing.server.report().run("chain")
    assert not report.moved
    assert [item.holds for item in balance(syncing)] == [True]


@pytest.mark.parametrize("counts", [LineCounts.ZERO, LineCounts.NULL], ids=lambda item: item.value)
def test_a_push_whose_answer_was_lost_is_completed_on_a_server_that_does_not_count(
    syncing: Syncing, fragments: Fragments, counts: LineCounts, tmp_path: Path
) -> None:
    syncing.server.set_behaviour(line_counts=counts)
    syncing.server.set_faults([Fault(FaultKind.STATUS, "upload", status=403)])
    name = fragments.add("rich", "rich")
    assert syncing.once(everything=True).count(State.DELIVERED) == 0
    syncing.server.clear_faults()
    syncing.until_done()
    place = syncing.spool.find(name)
    assert place is not None and place.state is State.DELIVERED
    report = syncing.server.report().run("rich")
    assert len(report.steps) == len(set(report.steps))
