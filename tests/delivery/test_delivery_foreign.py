"""Of somebody else's launch nothing is read but what was sealed, also where it only stands beside what is delivered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import DEFAULT_ENTITY, LineCounts

from .fragments import Fragments
from .syncing import Syncing

NOBODY = 65534


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a launch to somebody else")
    return Spool.create(tmp_path / "spool", group="root")


def swap(log: Path, what: str, secret: Path) -> None:
    log.unlink()
    if what == "fifo":
        os.mkfifo(log)
    elif what == "link":
        log.symlink_to(secret)
    else:
        log.write_bytes(secret.read_bytes())


@pytest.mark.parametrize("counts", [LineCounts.REPORTED, LineCounts.NULL], ids=lambda item: item.value)
@pytest.mark.parametrize("what", ["fifo", "link", "other bytes"])
def test_a_swapped_log_of_an_earlier_fragment_is_not_followed_and_holds_up_nobody(
    syncing: Syncing, fragments: Fragments, what: str, counts: LineCounts
) -> None:
    syncing.server.set_behaviour(line_counts=counts)
    secret = fragments.entry(fragments.add("third", "secret", entity=DEFAULT_ENTITY))
    first = fragments.entry(fragments.add("front", "run", entity=DEFAULT_ENTITY))
    os.chown(first.launch_directory(syncing.spool.root), NOBODY, -1)
    assert syncing.once().exit_code == 0
    (log,) = first.run_directory(syncing.spool.root).glob("*.wandb")
    (other,) = secret.run_directory(syncing.spool.root).glob("*.wandb")
    swap(log, what, other)
    second = fragments.add("rear", "run", entity=DEFAULT_ENTITY)
    syncing.until_done()
    steps, values = syncing.steps("run"), syncing.values("run")
    assert steps[:100] == list(range(100)), "what was delivered is still there"
    assert all(values[step] in (step, step + 0.5) for step in steps), "nothing of the other log was sent"
    known = {LineCounts.REPORTED: "delivered", LineCounts.NULL: "quarantined"}
    assert fragments.state(second) == known[counts]
