"""A destination is pushed to as fast as its owner allows, slower when its server says so, and what is large holds up
nobody."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.configuration import Destination
from wandb_spool.spool.observations import cache_directory
from wandb_spool.syncer.pace import (
    LONGEST_PAUSE_S,
    Pace,
    after_push,
    after_refusal,
    batch_runs,
    pause_left_s,
    rate_wait_s,
)
from wandb_spool.syncer.progress import tree
from wandb_spool.syncer.rehearsal import Fault, FaultKind

from .fragments import Fragments
from .syncing import Syncing, kill_group

HEAVY = """
import wandb
run = wandb.init(project='delivery', id='heavy')
with open('weights.bin', 'wb') as stream:
    stream.truncate(70 << 20)
run.save('weights.bin', policy='now')
run.log({'x': 1})
run.finish()
"""


def _until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_rate_lets_so_many_runs_through_a_minute() -> None:
    assert [batch_runs(rate, 32) for rate in (None, 60, 1, 0.1, 10_000)] == [32, 15, 1, 1, 32]
    pace = after_push(Pace(), runs=15, rate=60, now_s=1000.0)
    assert [rate_wait_s(pace, 60, now_s) for now_s in (1000.0, 1010.0, 1015.0)] == [15.0, 5.0, 0.0]
    assert rate_wait_s(after_push(Pace(), 1, 0.1, 0.0), 0.1, 0.0) == 600.0
    assert rate_wait_s(pace, None, 1000.0) == 0.0, "a rate that was taken away does not hold"
    assert rate_wait_s(pace, 60, 0.0) == 0.0, "a clock that went back does not hold anything up"


def test_every_429_doubles_the_pause_up_to_a_cap_and_a_push_that_is_taken_ends_it() -> None:
    pace, pauses = Pace(), []
    for _ in range(9):
        pace = after_refusal(pace, None, 0.0)
        pauses.append(pause_left_s(pace, 0.0))
    assert pauses[:3] == [5.0, 10.0, 20.0] and pauses[-1] == LONGEST_PAUSE_S
    assert pause_left_s(after_refusal(Pace(), 90.0, 0.0), 0.0) == 90.0
    assert after_push(pace, 1, None, 0.0) == Pace()


def test_runs_beyond_the_rate_wait_for_their_turn_in_the_same_pass(syncing: Syncing, fragments: Fragments) -> None:
    syncing.destination = Destination("default", rate=7.9)
    names = [fragments.add("tiny", run_id) for run_id in ("a", "b")]
    assert syncing.once().exit_code == 0
    assert [line for line in syncing.told if line.startswith("pushing")] == [
        f"pushing 1 run(s) to {syncing.server.base_url}"
    ] * 2
    assert {fragments.state(name) for name in names} == {"delivered"}


def test_a_server_that_says_slow_down_is_left_alone_also_by_the_next_pass(
    syncing: Syncing, fragments: Fragments
) -> None:
    fragments.add("tiny", "a")
    syncing.server.set_faults([Fault(FaultKind.STATUS, "file_stream", status=429)])
    assert syncing.once().exit_code == 3
    fresh = fragments.add("tiny", "b")
    sent = syncing.sent()
    resting = syncing.once()
    assert syncing.sent() == sent and not resting.outcomes and resting.waiting == 2 and resting.next_due
    assert fragments.state(fresh) == "incoming", "what was not tried is not deferred"
    syncing.server.clear_faults()
    assert syncing.once(everything=True).exit_code == 0
    assert not list(cache_directory().glob("pace-*"))


@pytest.fixture
def daemon(syncing: Syncing) -> Iterator[subprocess.Popen[str]]:
    process = syncing.start("daemon", "--scan", "1", "--metrics", str(syncing.home / "numbers.prom"))
    yield process
    kill_group(process)
    assert process.stdout is not None
    process.stdout.close()


def _helpers(pid: int) -> list[int]:
    """Processes of a daemon that serve others while it pushes something large."""
    found = []
    for member in tree(pid):
        try:
            found += [member.pid] if b"--light" in Path(f"/proc/{member.pid}/cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def test_a_large_push_holds_up_nobody_and_ends_on_sigterm_with_its_leases_free(
    syncing: Syncing, fragments: Fragments, daemon: subprocess.Popen[str]
) -> None:
    syncing.server.set_faults([Fault(FaultKind.HANG, "upload", nth=1, seconds=50.0)])
    words = [*syncing.command("run"), "-q", "--", "python", "-c", HEAVY]
    subprocess.run(words, env=syncing.environment(WANDB_SILENT="true"), cwd=syncing.home, check=True)
    _until(lambda: syncing.server.report(rows=False).requests.get("upload"))
    (heavy,) = [name for name in fragments.spool.scan() if name.endswith("-heavy")]
    light = [fragments.add("tiny", run_id) for run_id in ("a", "b")]
    _until(lambda: {fragments.state(name) for name in light} == {"delivered"})
    assert fragments.state(heavy) == "active", "the large one is still on its way"
    _until(lambda: not _helpers(daemon.pid))
    members = [member.pid for member in tree(daemon.pid)]
    daemon.terminate()
    assert daemon.wait(10) == 0
    numbers = (syncing.home / "numbers.prom").read_text()
    assert "wandb_spool_rows_delivered_total 40" in numbers, "what a helper delivered counts"
    assert fragments.state(heavy) == "incoming" and not list(fragments.spool.paths.leases.glob("*.json"))
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members if pid != os.getpid()))
