"""The daemon and the signals: it wakes, outlives outages, and ends cleanly within seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from wandb_spool.spool.queue import Spool
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


def _add(fragments: Fragments, run_id: str, *daemons: subprocess.Popen[str]) -> str:
    """Add a fragment behind the backs of the daemons, which would seal it before the test does."""
    for daemon in daemons:
        os.kill(daemon.pid, signal.SIGSTOP)
    name = fragments.add("tiny", run_id)
    for daemon in daemons:
        os.kill(daemon.pid, signal.SIGCONT)
    return name


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


def test_the_daemon_tells_that_its_spool_went_away_makes_nothing_there_and_serves_the_one_that_comes(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    daemon = start("daemon", "--scan", "0.2")
    first = _add(fragments, "first", daemon)
    _until(lambda: fragments.state(first) == "delivered")
    root = fragments.spool.root
    root.rename(tmp_path / "away")
    root.mkdir()  # the mount point of a share that is not mounted
    time.sleep(1.5)
    assert daemon.poll() is None and not list(root.iterdir())
    root.rmdir()
    (tmp_path / "away").rename(root)
    second = _add(fragments, "second", daemon)
    _until(lambda: fragments.state(second) == "delivered")
    shutil.rmtree(root)
    time.sleep(0.5)
    other = Fragments(Spool.create(root), fragments.templates)
    third = _add(other, "third", daemon)
    _until(lambda: other.state(third) == "delivered")
    daemon.terminate()
    assert daemon.wait(ENDS_WITHIN_S) == 0
    assert daemon.stdout is not None
    told = daemon.stdout.read()
    assert 1 <= told.count("`wandb-spool init ") <= 5, "once each time it goes, or changes how it is away"


def test_a_daemon_that_was_stopped_and_continued_or_runs_twice_delivers_once(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]]
) -> None:
    daemons = [start("daemon", "--scan", "0.5") for _ in range(2)]
    names = [_add(fragments, f"run{number}", *daemons) for number in range(3)]
    os.kill(daemons[0].pid, signal.SIGSTOP)
    _until(lambda: {fragments.state(name) for name in names} <= {"delivered", "active"})
    os.kill(daemons[0].pid, signal.SIGCONT)
    _until(lambda: {fragments.state(name) for name in names} == {"delivered"})
    more = _add(fragments, "more", *daemons)
    _until(lambda: fragments.state(more) == "delivered")
    for daemon in daemons:
        daemon.terminate()
        assert daemon.wait(ENDS_WITHIN_S) == 0
    for name in [*names, more]:
        assert syncing.server.report().run(fragments.entry(name).run_id or "").once_and_in_place


def test_a_daemon_that_used_its_share_of_the_processor_goes_on_as_another_process(
    syncing: Syncing, fragments: Fragments
) -> None:
    words = ["daemon", "--spool", str(fragments.spool.root), "--scan", "0.2", "--cpu-limit", "2"]
    worn = f"import sys, time\nwhile time.process_time() < 2: pass\nsys.argv[1:] = {words!r}\n{_MAIN}"
    daemon = subprocess.run([sys.executable, "-c", worn], env=syncing.environment(), timeout=60)
    assert daemon.returncode == 0
    (successor,) = _daemons_of(fragments.spool.root)
    try:
        for process in _daemons_of(fragments.spool.root):
            process.suspend()
        name = fragments.add("tiny")
        for process in _daemons_of(fragments.spool.root):
            process.resume()
        _until(lambda: fragments.state(name) == "delivered")
        assert successor.num_fds() < 20, "nothing of the one before is held open"
    finally:
        for process in _daemons_of(fragments.spool.root):
            process.terminate()
    _until(lambda: not _daemons_of(fragments.spool.root))


_MAIN = "from wandb_spool.__main__ import main\nsys.exit(main())"


def _daemons_of(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if {"daemon", str(root)} <= set(words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_terminal_that_closes_ends_a_daemon_as_cleanly_as_sigterm(
    syncing: Syncing, fragments: Fragments, start: Callable[..., subprocess.Popen[str]]
) -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it, and hand that on
    daemon = start("daemon")
    signal.signal(signal.SIGHUP, inherited)
    name = fragments.add("tiny")
    _until(lambda: fragments.state(name) == "delivered")
    os.kill(daemon.pid, signal.SIGHUP)
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
