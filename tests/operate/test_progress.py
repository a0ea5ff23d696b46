"""While something takes long, a person and a program see that it moves, how far it is, and when it will end."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from wandb_spool.speaking import Lines, figures, progress_event, sentence
from wandb_spool.syncer.meter import Meter, Moving, Phase
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

from .conftest import Operator

MB = 1_000_000
WITH_A_FILE = """
import os, wandb
run = wandb.init(project='p', id='big')
open('weights.bin', 'wb').write(os.urandom(12_000_000))
run.save('weights.bin', policy='now')
run.log({'x': 1})
run.finish()
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_speed_and_end_are_those_of_the_last_minute() -> None:
    clock = Clock()
    meter = Meter(now_s=clock)
    meter.enter(Phase.PUSHING, 1, "http://x", rows=10, total_bytes=1000 * MB)
    for second in range(1, 201):
        clock.now_s = float(second)
        meter.sent(second * MB if second <= 100 else 100 * MB + (second - 100) * 2 * MB)
    assert meter.moving.sent_bytes == 300 * MB and meter.moving.bytes_per_s == pytest.approx(2 * MB)
    assert meter.moving.eta_s == pytest.approx(350) and meter.moving.fraction == pytest.approx(0.3)
    assert figures(meter.moving) == "300 MB of about 1.0 GB (30%), 2.0 MB/s, about 5 min left"
    meter.sent(2000 * MB)
    assert meter.moving.fraction == 0.99 and meter.moving.eta_s is None, "the total is an estimate"


def test_a_push_that_stands_still_promises_no_end() -> None:
    clock = Clock()
    meter = Meter(now_s=clock)
    meter.enter(Phase.PUSHING, 1, "http://x", total_bytes=50_000 * MB)
    clock.now_s = 100.0
    meter.sent(0)
    assert meter.moving.eta_s is None and "0 B of about 50.0 GB (0%), 0 B/s" in sentence(meter.moving)


def test_a_log_gets_its_first_line_soon_and_then_ever_fewer() -> None:
    clock, lines = Clock(), list[float]()
    speaker = Lines(lambda line: None, lambda moving: lines.append(clock.now_s), clock)
    pushing = Moving(Phase.PUSHING, runs=1, total_bytes=5)
    for second in range(400):
        clock.now_s = float(second)
        speaker.show(pushing)
    assert lines == [5, 15, 35, 75, 135, 195, 255, 315, 375]
    lines.clear()
    for second in range(400, 404):
        clock.now_s = float(second)
        speaker.show(Moving(Phase.READING_BACK, runs=1))
    assert not lines, "what is quick needs no line"


def test_an_event_carries_the_numbers() -> None:
    moving = Moving(Phase.PUSHING, 2, 30, "http://x", 50_000, 100_000, 10_000.0, 3, 8, 100)
    event = progress_event(moving, 0.0)
    assert event["event"] == (
        "pushing 2 runs (30 rows), 3 of 8 done to http://x: 50.0 kB of about 100 kB (50%), 10.0 kB/s, about 5 s left"
    )
    numbers = {"sent_bytes": 50_000, "bytes_per_s": 10_000, "eta_s": 5, "done_runs": 3, "due_runs": 8}
    assert numbers.items() <= event.items()


def slow(rehearsal: RehearsalServer) -> None:
    rehearsal.set_faults([Fault(FaultKind.SLOW, "upload", seconds=7.0, times=1)])


def test_a_large_file_on_a_slow_link_is_seen_to_move(operator: Operator, rehearsal: RehearsalServer) -> None:
    operator("run", "-q", "--", "python", "-c", WITH_A_FILE, code=0, WANDB_SILENT="true")
    slow(rehearsal)
    done = operator("sync", "--log-json", code=0, **rehearsal.environment())
    moving = [event for event in map(json.loads, done.stderr.splitlines()) if event.get("phase") == "pushing"]
    assert moving and moving[0]["runs"] == 1 and moving[0]["total_bytes"] >= 12_000_000
    assert 0 <= moving[-1]["sent_bytes"] <= 2 * moving[-1]["total_bytes"]


def test_a_terminal_shows_a_bar_and_is_left_as_it_was(operator: Operator, rehearsal: RehearsalServer) -> None:
    operator("run", "-q", "--", "python", "-c", WITH_A_FILE, code=0, WANDB_SILENT="true")
    leader, follower = pty.openpty()
    environ = operator.environment(**rehearsal.environment(), TERM="xterm", COLUMNS="150")
    slow(rehearsal)
    process = subprocess.Popen(operator.words("sync"), env=environ, stderr=follower, stdout=subprocess.DEVNULL)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:
        pass  # the other end is closed
    os.close(leader)
    assert process.wait(60) == 0
    assert b"pushing 1 run (1 row)" in shown and b"MB of about 12" in shown and "━".encode() in shown
    assert b"delivered " in shown and shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h"), "the cursor came back"


def test_a_reader_of_the_log_that_goes_away_costs_no_delivery(
    operator: Operator, rehearsal: RehearsalServer, tmp_path: Path
) -> None:
    operator("run", "-q", "--", "python", "-c", "import wandb; wandb.init(project='p').log({'x': 1})", code=0)
    reading, writing = os.pipe()
    daemon = subprocess.Popen(
        operator.words("daemon", "--scan", "1"),
        env=operator.environment(**rehearsal.environment()),
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    os.close(reading)
    try:
        deadline = time.monotonic() + 60
        while not list(operator.spool.paths.root.glob("queue/delivered/*/*.json")):
            assert time.monotonic() < deadline and daemon.poll() is None
            time.sleep(0.1)
    finally:
        daemon.terminate()
    assert daemon.wait(30) == 0
