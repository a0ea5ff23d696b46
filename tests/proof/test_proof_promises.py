"""One attack for each mechanism that a promise rests on; benchmarks/mutations.py takes it out and sees it red."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import mounts
import pytest
import requests
from delivery.fragments import Fragments

from wandb_spool.spool.entry import Replay
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import Fault, FaultKind, LineCounts, StreamTail
from wandb_spool.syncer.replaying import replay
from wandb_spool.syncer.service import Options, sync_once

from .arena import Arena


@pytest.mark.parametrize("endpoint", ["file_stream", "upload", "artifact_upload"])
def test_what_the_server_refused_is_never_called_delivered(arena: Arena, endpoint: str) -> None:
    """`wandb sync` exits 0 and writes its marker all the same: only the read-back knows."""
    arena.fragments.add("rich")
    arena.server.set_faults([Fault(FaultKind.STATUS, endpoint, status=403)])
    arena.syncing.once(everything=True)
    assert arena.states() == [State.DEFERRED]
    arena.server.clear_faults()
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean and verdict.delivered == verdict.rows_logged, str(verdict)


def test_two_syncers_that_deliver_to_one_run_at_once_send_each_row_once(arena: Arena) -> None:
    name = arena.fragments.add("thousand")
    replay(arena.spool, arena.fragments.entry(name), State.INCOMING, Replay())
    arena.server.set_faults([Fault(FaultKind.SLOW, "graphql:UpsertBucket", seconds=1.5)])
    names = sorted(arena.spool.scan())
    syncers = [arena.syncing.start("sync", "--patience", "1", each) for each in names]
    for syncer in syncers:
        syncer.communicate(timeout=120)
    arena.settle()
    verdict = arena.judge()
    report = arena.server.report().run(arena.fragments.entry(name).run_id or "")
    assert verdict.clean and report.lines_received == 1000, f"{verdict}\n{report.lines_received} lines were sent"


def test_restarted_trajectory_is_the_true_one_and_fragments_arrive_in_their_order(arena: Arena) -> None:
    """The second fragment's clock is behind: its predecessor decides, not the time."""
    for shape in ("front", "rear", "third"):
        arena.fragments.add(shape, "chain")
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean, str(verdict)
    assert arena.syncing.steps("chain") == list(range(200))
    values = arena.syncing.values("chain")
    wanted = {step: step + (0.0 if step < 80 else 0.5 if step < 150 else 0.25) for step in range(200)}
    assert {step: values[step] for step in wanted} == wanted
    assert verdict.superseded == 20 + 30


def test_no_step_moves_when_rows_arrive_behind_later_ones(arena: Arena) -> None:
    """The client would lift every step below what the server holds already up to there, silently."""
    front = arena.fragments.add("front", "chain")
    rear = arena.fragments.add("rear", "chain")
    for words in (("hold", front), ("release", "--skip", front), ("sync", "--patience", "2")):
        done = arena.syncing.run(*words)
        assert done.returncode == 0, done.stderr
    assert arena.fragments.state(rear) == "delivered" and arena.fragments.state(front) == "held"
    assert arena.syncing.run("release", front).returncode == 0
    arena.settle()
    verdict = arena.judge()
    assert (verdict.missing, verdict.doubled, verdict.moved) == (0, 0, 0), str(verdict)
    assert arena.syncing.steps("chain") == list(range(180))


def test_answers_that_are_lost_double_nothing(arena: Arena) -> None:
    arena.fragments.add("front", "chain")
    arena.settle()
    arena.fragments.add("rear", "chain")
    arena.server.set_faults([Fault(FaultKind.RESET_AFTER, "file_stream", nth=1, times=3)])
    arena.syncing.once(everything=True)
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean and verdict.moved == 0, str(verdict)
    assert arena.syncing.steps("chain") == list(range(180))


@pytest.mark.parametrize("counts", [LineCounts.ZERO, LineCounts.NULL], ids=lambda counts: str(counts.value))
def test_what_was_delivered_and_replaced_by_a_push_that_was_cut_short_is_sent_again(
    arena: Arena, counts: LineCounts
) -> None:
    """A server that does not count its lines is sent the whole run; the first lines came, and the rest was cut off."""
    arena.server.set_behaviour(line_counts=counts, stream_tail=StreamTail.CUT)
    arena.fragments.add("front", "chain")
    arena.settle()
    arena.fragments.add("third", "chain")
    held = dict(arena.server.report().run("chain").rows)
    lines = [json.dumps({**held[step], "_step": step}) for step in range(16)]
    requests.post(
        f"{arena.server.base_url}/files/rehearsal/delivery/chain/file_stream",
        json={"files": {"wandb-history.jsonl": {"offset": 0, "content": lines}}},
        auth=("api", arena.server.api_key),
        timeout=10,
    ).raise_for_status()
    assert arena.syncing.steps("chain") == list(range(16))
    arena.settle()
    assert arena.syncing.steps("chain") == [*range(100), *range(150, 200)]
    assert arena.judge().clean


def test_run_without_rows_on_a_server_that_does_not_count_is_completed(arena: Arena) -> None:
    """The client refuses to resume a run whose lines nobody counts."""
    arena.server.set_behaviour(line_counts=LineCounts.NULL)
    arena.server.set_faults([Fault(FaultKind.STATUS, "file_stream", status=403)])
    arena.fragments.add("tiny")
    arena.syncing.once(everything=True)
    arena.server.clear_faults()
    arena.settle(4)
    verdict = arena.judge()
    assert verdict.clean and verdict.delivered == 20, str(verdict)


def test_saved_file_that_is_overwritten_after_the_run_arrives_as_it_was(arena: Arena, tmp_path: Path) -> None:
    name = arena.fragments.add("rich", seal=False)
    original = tmp_path / "model.bin"
    run = arena.fragments.entry(name).run_directory(arena.spool.root)
    content = (run / "files" / "model.bin").read_bytes()
    (run / "files" / "model.bin").unlink()
    original.write_bytes(content)
    (run / "files" / "model.bin").symlink_to(original)
    seal_fragment(arena.spool, arena.fragments.place(name), hook=True)
    original.write_bytes(b"the next run's weights, of another size")
    arena.settle()
    run_id = arena.fragments.entry(name).run_id or ""
    assert arena.server.report().run(run_id).files["model.bin"].size_bytes == len(content)
    assert arena.judge().clean


def test_syncers_clock_may_jump_both_ways(arena: Arena) -> None:
    """A not-before time a year ahead, a pass a year in the past and one in the future: nothing waits for ever."""
    arena.fragments.add("tiny")
    arena.server.down()
    now = 1_795_000_000.0
    year = 3.15e7
    for at in (now, now + year, now - year, now):
        _pass_at(arena, at)
        assert arena.states() == [State.DEFERRED]
    arena.server.up()
    _pass_at(arena, now - year)
    assert arena.states() == [State.DELIVERED]
    assert arena.judge().clean


def _pass_at(arena: Arena, now_s: float) -> None:
    options = Options(patience_s=2.0)
    configuration, environment = arena.syncing.configuration(), arena.syncing.environment()
    sync_once(arena.spool, configuration, environment, options, now_s=lambda: now_s)


def test_two_daemons_and_a_deaf_watcher_deliver_everything_once(arena: Arena) -> None:
    """No event ever comes (their directories are on a mount that tells nothing): the scan finds the work."""
    arena.syncing.write_configuration()
    words = ("daemon", "--scan", "0.5", "--patience", "1")
    daemons = [arena.syncing.start(*words) for _ in range(2)]
    try:
        for shape in ("tiny", "thousand", "rear"):
            arena.fragments.add(shape)
        for shape in ("front", "rear"):
            arena.fragments.add(shape, "chain")
        _until_delivered(arena.spool)
    finally:
        for daemon in daemons:
            daemon.terminate()
        told = [daemon.communicate(timeout=30)[0] for daemon in daemons]
    assert [daemon.returncode for daemon in daemons] == [0, 0], told
    verdict = arena.judge()
    assert verdict.clean, f"{verdict}\n{told}"


def test_daemon_on_another_client_of_the_file_server_is_woken_and_delivers_everything_once(
    arena: Arena, tmp_path: Path
) -> None:
    """No event crosses from one client to the other, and the next scan is far: polling alone brings the news."""
    real, here, there = tmp_path / "real", tmp_path / "here", tmp_path / "there"
    real.mkdir()
    with mounts.network_clients(real, here, there):
        arena.fragments = Fragments(Spool.create(there / "spool"), arena.fragments.templates)
        arena.syncing.spool = Spool.open(here / "spool")
        daemon = arena.syncing.start("daemon", "--scan", "600", "--patience", "1")
        try:
            for shape, run_id in (("rich", None), ("front", "chain"), ("rear", "chain")):
                arena.fragments.add(shape, run_id)
                _until_delivered(arena.spool)
        finally:
            daemon.terminate()
            told = daemon.communicate(timeout=30)[0]
        assert daemon.returncode == 0 and "by polling" in told, told
        verdict = arena.judge()
        assert verdict.clean and verdict.files, f"{verdict}\n{told}"


def _until_delivered(spool: Spool, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while {place.state for place in spool.scan().values()} != {State.DELIVERED}:
        assert time.monotonic() < deadline, spool.scan()
        time.sleep(0.1)


def test_fragments_class_makes_what_it_says(arena: Arena) -> None:
    """The attacks stand on copies of real runs: they are as whole as the real ones."""
    assert isinstance(arena.fragments, Fragments) and os.path.isdir(arena.spool.root)
    name = arena.fragments.add("tiny")
    assert arena.fragments.entry(name).rows == 20
