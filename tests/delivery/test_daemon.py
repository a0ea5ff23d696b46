"""The daemon and the signals: it wakes, outlives outages, and ends cleanly within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wandb_spool.syncer.progress import tree
from wandb_spool.syncer.rehearsal import Fault, FaultKind

from .fragments import Fragments
from .syncing import Syncing, kill_group

ENDS_WITHIN_S = 10.0


def _until(condition: Callable[[], object], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def start(syncing: Syncing) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        started.append(syncing.start(*words))
        return started[-1]

    yield run
    for process in started:
        kill_group(process)
        assert process.stdout is not None
        process.stdout.close()


def test_the_daemon_delivers_what_comes_outlives_an_outage_and_ends_on_sigterm(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]]
) -> None:
    daemon = start("daemon", "--scan", "1")
    first = fragments.add("tiny")
    _until(lambda: fragments.state(first) == "delivered")
    syncing.server.down()
    second = fragments.add("tiny")
    _until(lambda: fragments.state(second) == "deferred")
    third = fragments.add("tiny")
    syncing.server.up()
    _until(lambda: {fragments.state(second), fragments.state(third)} == {"delivered"})
    daemon.terminate()
    assert daemon.wait(ENDS_WITHIN_S) == 0


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [(("daemon",), signal.SIGTERM, 0), (("sync",), signal.SIGINT, 130), (("sync",), signal.SIGTERM, 143)],
    ids=["daemon-TERM", "sync-INT", "sync-TERM"],
)
@pytest.mark.parametrize("endpoint", ["file_stream", "graphql:Run"])
def test_a_signal_in_the_middle_of_the_work_puts_everything_back_and_leaves_no_process(
    syncing: Syncing,
    fragments: Fragments,
    start: Callable[..., subprocess.Popen[str]],
    words: tuple[str, ...],
    number: int,
    code: int,
    endpoint: str,
) -> None:
    names = [fragments.add("tiny") for _ in range(2)]
    syncing.server.set_faults([Fault(FaultKind.HANG, endpoint)])
    process = start(*words)
    _until(lambda: syncing.server.report(rows=False).requests.get(endpoint))
    members = [member.pid for member in tree(process.pid)]
    os.kill(process.pid, number)
    assert process.wait(ENDS_WITHIN_S) == code
    assert {fragments.state(name) for name in names} == {"incoming"}
    assert not list(fragments.spool.paths.leases.glob("*.json"))
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members))
    syncing.server.clear_faults()
    assert syncing.until_done().exit_code == 0
    for name in names:
        assert syncing.server.report().run(fragments.entry(name).run_id or "").once_and_in_place
