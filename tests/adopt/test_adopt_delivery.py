"""What is adopted is delivered: the server is read back first, and only what is missing is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wandb_spool.spool.log import facts
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

from .trees import Tree, environment, settle

RESTARTED = """
import os, sys, wandb
resume, places = sys.argv[1] == "resume", sys.argv[2:]
for place in places:
    first, last = map(int, place.split("-"))
    os.makedirs(place, exist_ok=True)
    run = wandb.init(project="old", id="again", dir=place, resume="allow" if resume else None)
    for step in range(first, last):
        run.log({"loss": step + first / 1000}, step=step)
    run.finish()
"""

ONLINE = """
import sys, wandb
run = wandb.init(project="old", id="online", settings=wandb.Settings(x_file_stream_transmit_interval=0.1))
for step in range(200):
    run.log({"loss": step}, step=step)
    if step == 100:
        print("HALF", flush=True)
        sys.stdin.readline()
run.finish(exit_code=3)
"""


def sync(tree: Tree, server: RehearsalServer, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wandb_spool", "sync", "--patience", "5", "--spool", str(tree.spool_root), *words],
        env=environment(tree.home, **server.environment()),
        cwd=tree.home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def plain_sync(tree: Tree, server: RehearsalServer, directory: Path) -> None:
    """What people do."""
    words = [sys.executable, "-m", "wandb", "sync", str(directory)]
    environ = environment(
        tree.home,
        WANDB_X_FILE_STREAM_RETRY_MAX="1",
        WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS="0.1",
        WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS="0.2",
        **server.environment(),
    )
    subprocess.run(words, env=environ, cwd=tree.home, check=True, capture_output=True, timeout=120)


def restarted(tree: Tree, *steps: str, resume: bool = True) -> None:
    shutil.rmtree(tree.root)
    tree.root.mkdir()
    words = [sys.executable, "-c", RESTARTED, "resume" if resume else "no", *steps]
    environ = environment(tree.home, WANDB_MODE="offline")
    subprocess.run(words, env=environ, cwd=tree.root, check=True, capture_output=True, timeout=120)
    settle(tree.root)


def test_true_marker_sends_nothing_and_a_false_one_sends_what_is_missing(
    tree: Tree, rehearsal: RehearsalServer
) -> None:
    tree.only("plain", "synced")
    plain_sync(tree, rehearsal, tree.run_directory("plain"))
    rehearsal.set_faults([Fault(FaultKind.STATUS, "file_stream", status=403)])
    plain_sync(tree, rehearsal, tree.run_directory("synced"))
    rehearsal.clear_faults()
    assert Path(f"{tree.log('plain')}.synced").exists() and Path(f"{tree.log('synced')}.synced").exists()
    body = tree.adopted("--check", more=rehearsal.environment())
    assert body["counts"]["delivered already"] == 1 and body["counts"]["complete"] == 1
    said = {run["run_id"]: run["server"] for run in body["runs"]}
    assert said["plain"].startswith("20 of 20 rows") and said["synced"].startswith("0 of 20 rows")
    streamed = rehearsal.report().requests.get("file_stream", 0)
    told = sync(tree, rehearsal)
    assert tree.counts() == {"delivered": 2}, told
    report = rehearsal.report()
    assert list(report.run("plain").steps) == list(report.run("synced").steps) == list(range(20))
    assert not report.run("plain").doubled
    assert report.requests["file_stream"] > streamed
    pushed = [line for line in told.splitlines() if "pushing" in line]
    assert len(pushed) == 1 and "1 run" in pushed[0]


def test_restarted_run_is_one_run_with_every_step_once(tree: Tree, rehearsal: RehearsalServer) -> None:
    restarted(tree, "0-100", "80-180", "170-200")
    body = tree.adopted()
    assert [run["doubt"] for run in body["runs"]] == [None] * 3
    told = sync(tree, rehearsal)
    assert tree.counts() == {"delivered": 3}, told
    values = {step: row["loss"] for step, row in rehearsal.report().run("again").rows}
    expected = {**{s: s + 0.0 for s in range(80)}, **{s: s + 0.08 for s in range(80, 170)},
                **{s: s + 0.17 for s in range(170, 200)}}  # fmt: skip
    assert values == expected


def test_two_runs_with_one_id_are_held_and_not_guessed(tree: Tree, rehearsal: RehearsalServer) -> None:
    restarted(tree, "0-50", "0-60", resume=False)
    told = tree.adopt(code=3)
    assert "begins again at step 0" in told and "2 of them are held" in told
    assert tree.counts() == {"held": 2}
    entry = tree.entries(State.HELD)["again"]
    assert (entry.reason or "").startswith("doubtful: ") and "--id NEW_ID" in (entry.mend or "")
    sync(tree, rehearsal)
    assert not rehearsal.report().runs


def test_person_at_a_terminal_is_asked_and_can_make_them_runs_of_their_own(
    tree: Tree, rehearsal: RehearsalServer
) -> None:
    restarted(tree, "0-50", "0-60", resume=False)
    import pty

    parent, child = pty.openpty()
    words = [sys.executable, "-m", "wandb_spool", "adopt", str(tree.root), "--spool", str(tree.spool_root)]
    process = subprocess.Popen(words, env=environment(tree.home), stdin=child, stdout=child, stderr=child)
    os.close(child)
    os.write(parent, b"s\n")
    shown = b""
    while process.poll() is None or b"next:" not in shown:
        try:
            shown += os.read(parent, 4096)
        except OSError:
            break
    os.close(parent)
    assert process.wait(30) == 0, shown.decode()
    assert b"runs of their own" in shown
    sync(tree, rehearsal)
    report = rehearsal.report()
    assert {run.run_id: len(run.steps) for run in report.runs.values()} == {"again": 50, "again-2": 60}


def test_copies_of_one_log_are_adopted_once_and_the_longest_wins(tree: Tree) -> None:
    tree.only("plain")
    shorter = tree.another("plain", "backup", stamp="20260101_000000")
    log = next(shorter.glob("*.wandb"))
    log.write_bytes(log.read_bytes()[:-500])
    tree.another("plain", "backup2", stamp="20260101_000001")
    settle(tree.root)
    body = tree.adopted()
    assert len(body["runs"]) == 1 and body["runs"][0]["rows"] == 20
    assert [item["why"] for item in body["left_alone"]] == ["a copy of another"] * 2


def test_restart_that_is_adopted_later_continues_what_is_in_the_spool(tree: Tree, rehearsal: RehearsalServer) -> None:
    restarted(tree, "0-100", "80-180")
    later = next(tree.root.glob("80-180"))
    later.rename(tree.home / "later")
    tree.adopt()
    sync(tree, rehearsal)
    tree.adopt(where=tree.home / "later")
    sync(tree, rehearsal)
    assert tree.counts() == {"delivered": 2}
    values = {step: row["loss"] for step, row in rehearsal.report().run("again").rows}
    assert sorted(values) == list(range(180))
    assert values[90] == 90.0  # the server had it already, and steps never move


def test_half_uploaded_online_run_is_completed(tree: Tree, rehearsal: RehearsalServer) -> None:
    shutil.rmtree(tree.root)
    tree.root.mkdir()
    environ = environment(tree.home, WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL="0.5", **rehearsal.environment())
    process = subprocess.Popen(
        [sys.executable, "-c", ONLINE],
        env=environ,
        cwd=tree.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    for line in process.stdout:
        if "HALF" in line:
            break
    deadline = time.monotonic() + 30
    while not rehearsal.report().runs or not next(iter(rehearsal.report().runs.values())).steps:
        assert time.monotonic() < deadline, "the online client sends nothing"
        time.sleep(0.2)
    rehearsal.down()
    process.stdin.write("\n")
    process.stdin.flush()
    log = next(tree.root.rglob("*.wandb"))
    deadline = time.monotonic() + 30
    while facts(log).rows < 195 and time.monotonic() < deadline:
        time.sleep(0.2)
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
    process.kill()
    process.wait()
    rehearsal.up()
    there = len(rehearsal.report().run("online").steps)
    if not 0 < there < 200:
        pytest.skip(f"the online client had sent {there} of 200 rows")
    settle(tree.root)
    body = tree.adopted()
    assert [run["category"] for run in body["runs"]] == ["will be mended"]
    kept = body["runs"][0]["rows"]
    told = sync(tree, rehearsal)
    assert tree.counts() == {"delivered": 1}, told
    assert list(rehearsal.report().run("online").steps) == list(range(kept))
