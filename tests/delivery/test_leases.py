"""At most one syncer works on a target run, anywhere: two processes, one of which is stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.leases import LeaseWatch, acquire
from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import Fault, FaultKind

from .fragments import Fragments
from .syncing import Syncing, balance, kill_group

EXPIRES_S = 1.2
KEY = "0" * 32

HOLDER = """
import sys, time
from pathlib import Path
from wandb_spool.spool.leases import LeaseWatch, acquire
from wandb_spool.spool.queue import Spool
lease = acquire(Spool.open(Path(sys.argv[1])), sys.argv[2], LeaseWatch(), expires_s=float(sys.argv[3]))
print("held" if lease else "refused", flush=True)
while not lease.due() or lease.renew():
    time.sleep(0.02)
print("lost", flush=True)
"""

SYNCER = """
import os, sys
from pathlib import Path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.configuration import Configuration
from wandb_spool.syncer.service import Options, sync_once
options = Options(lease_expires_s=float(sys.argv[2]), patience_s=2.0)
result = sync_once(Spool.open(Path(sys.argv[1])), Configuration(), os.environ, options, tell=print)
sys.exit(result.exit_code)
"""


@pytest.fixture
def start(spool: Spool, syncing: Syncing) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program, str(spool.root), *words],
            stdout=subprocess.PIPE,
            text=True,
            env=syncing.environment(),
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        kill_group(process)
        assert process.stdout is not None
        process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _take(spool: Spool, watch: LeaseWatch, timeout_s: float) -> float:
    """Seconds until the lease could be taken."""
    began = time.monotonic()
    while acquire(spool, KEY, watch, expires_s=EXPIRES_S) is None:
        assert time.monotonic() - began < timeout_s, "the lease was never free"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_lease_of_a_living_owner_is_never_taken_and_that_of_a_killed_one_at_once(
    spool: Spool, start: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = start(HOLDER, KEY, str(EXPIRES_S))
    assert _line(owner) == "held"
    watch = LeaseWatch()
    until = time.monotonic() + 3 * EXPIRES_S
    while time.monotonic() < until:
        assert acquire(spool, KEY, watch, expires_s=EXPIRES_S) is None
        time.sleep(0.05)
    owner.kill()
    owner.wait(10)
    assert acquire(spool, KEY, watch, expires_s=EXPIRES_S) is not None


def test_an_owner_that_was_stopped_past_its_expiry_finds_out_before_it_goes_on(
    spool: Spool, start: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = start(HOLDER, KEY, str(EXPIRES_S))
    assert _line(owner) == "held"
    watch = LeaseWatch()
    assert acquire(spool, KEY, watch, expires_s=EXPIRES_S) is None
    os.kill(owner.pid, signal.SIGSTOP)
    waited = _take(spool, watch, 30.0)
    assert waited >= EXPIRES_S, "taken before the owner's own deadline"
    os.kill(owner.pid, signal.SIGCONT)
    assert _line(owner) == "lost"


def test_of_many_that_want_one_lease_one_gets_it(spool: Spool) -> None:
    leases = [acquire(spool, KEY, LeaseWatch()) for _ in range(5)]
    assert [lease is not None for lease in leases].count(True) == 1


def _until(condition: Callable[[], object], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _streaming(syncing: Syncing) -> int:
    return syncing.server.report(rows=False).requests.get("file_stream", 0)


def test_a_second_syncer_leaves_a_run_alone_on_which_the_first_one_works(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]]
) -> None:
    fragments.add("front", "run")
    syncing.server.set_faults([Fault(FaultKind.SLOW, "file_stream", nth=1, seconds=4.0)])
    first = start(SYNCER, "60")
    _until(lambda: _streaming(syncing))
    fragments.add("rear", "run")
    sent = syncing.sent()
    result = syncing.once()
    assert (result.elsewhere, result.outcomes) == (1, [])
    assert syncing.sent() == sent, "two pushed at once"
    assert first.wait(60) == 0
    assert syncing.until_done().exit_code == 0
    (found,) = balance(syncing)
    assert found.holds and sorted(syncing.values("run")) == list(range(180))
    assert syncing.server.report().run("run").once_and_in_place


def test_the_push_of_a_syncer_that_was_stopped_past_its_expiry_dies_and_another_one_finishes(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]], spool: Spool
) -> None:
    name = fragments.add("thousand")
    run_id = fragments.entry(name).run_id or ""
    syncing.server.set_behaviour(duplicates="keep")
    syncing.server.set_faults([Fault(FaultKind.HANG, "file_stream")])
    first = start(SYNCER, str(EXPIRES_S))
    _until(lambda: _streaming(syncing))
    pushes = _children(first.pid)
    assert pushes
    os.kill(first.pid, signal.SIGSTOP)  # the push itself goes on
    _until(lambda: not any(map(_lives, pushes)))
    syncing.server.clear_faults()
    _until(lambda: syncing.once(lease_expires_s=EXPIRES_S, everything=True) and _done(fragments, name))
    os.kill(first.pid, signal.SIGCONT)
    first.wait(30)
    assert fragments.state(name) == "delivered"
    report = syncing.server.report().run(run_id)
    assert report.steps == tuple(range(1000)) and report.once_and_in_place


def _done(fragments: Fragments, name: str) -> bool:
    return fragments.state(name) == "delivered"


def _children(pid: int) -> list[int]:
    from wandb_spool.syncer.progress import tree

    return [process.pid for process in tree(pid)[1:]]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
