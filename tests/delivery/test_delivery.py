"""The ground: what is trained offline arrives, once, on its steps, and is proven."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import Fault, FaultKind
from wandb_spool.syncer.service import Options

from .fragments import Fragments, scrubbed, train
from .syncing import Syncing, balance, kill_group, outcome_of

THOUSAND = """
import runner, spool, syncer
import wandb
run = wandb.init(project="delivery", id="thousand", mode="online", dir=".")
for step in range(1000):
    run.log({"loss": step})
print(runner.MINE, spool.MINE, syncer.MINE)
"""


def without_network(command: Sequence[str]) -> list[str]:
    """The command in a namespace that has no network at all; skips where none can be made."""
    probe = ["unshare", "--map-root-user", "--net", "true"]
    try:
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return [*probe[:-1], *command]
    except FileNotFoundError:
        pass
    pytest.skip("no network namespace can be made here (`unshare --net` is refused)")


def test_a_script_that_asks_for_online_logs_1000_rows_without_a_network_and_all_of_them_arrive(
    syncing: Syncing, spool: Spool, home: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("runner", "spool", "syncer"):
        (work / f"{name}.py").write_text("MINE = True\n")
    (work / "train.py").write_text(THOUSAND)
    command = without_network([sys.executable, "-m", "wandb_spool", "run", "--spool", str(spool.root), "--"])
    # The launcher is started elsewhere: `-m` would put the user's own modules before everything.
    done = subprocess.run(
        [*command, "sh", "-c", f"cd {work} && exec {sys.executable} train.py"],
        env=scrubbed(home), cwd=home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "True True True" in done.stdout
    assert not list(work.glob("wandb")), "the run left the spool"

    first = syncing.run("sync")
    assert first.returncode == 0, first.stderr
    assert syncing.values("thousand") == {step: step for step in range(1000)}
    (found,) = balance(syncing)
    assert (found.rows_logged, found.delivered, found.lost, found.holds) == (1000, 1000, 0, True)

    sent = syncing.sent()
    second = syncing.run("sync")
    assert (second.returncode, second.stdout) == (0, "nothing to deliver\n")
    assert syncing.sent() == sent


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
@pytest.mark.parametrize("killed", ["the group", "only the parent"])
def test_a_sync_that_is_killed_in_the_middle_and_run_again_leaves_each_row_once_on_its_step(
    syncing: Syncing, fragments: Fragments, duplicates: str, killed: str
) -> None:
    syncing.server.set_behaviour(duplicates=duplicates)
    name = fragments.add("thousand")
    run_id = fragments.entry(name).run_id or ""
    # The rows are stored, and the answer never comes: the worst moment.
    syncing.server.set_faults([Fault(FaultKind.SLOW, "file_stream", seconds=30.0)])
    process = syncing.start("sync")
    _until(lambda: syncing.server.report(rows=False).requests.get("file_stream", 0) > 0)
    if killed == "the group":
        _kill_with_children(process)
    else:
        process.kill()
        process.wait(30)
    syncing.server.clear_faults()
    assert fragments.state(name) == "active"
    result = syncing.until_done()
    assert result.exit_code == 0, result
    assert fragments.state(name) == "delivered"
    report = syncing.server.report().run(run_id)
    assert report.steps == tuple(range(1000))
    assert report.once_and_in_place, report
    assert {step: row["loss"] for step, row in report.rows} == {step: step for step in range(1000)}
    assert report.state == "finished"


def _kill_with_children(process: subprocess.Popen[str]) -> None:
    """The command and the pushes that it started, which live in sessions of their own."""
    from wandb_spool.syncer.progress import tree

    members = tree(process.pid)
    for member in members:
        member.send_signal(signal.SIGKILL)
    kill_group(process)


def _until(condition: object, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


FRONT_KEPT = {step: float(step) for step in range(80)}
REAR = {step: step + 0.5 for step in range(80, 180)}


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_restart_from_an_older_checkpoint_replaces_the_rows_behind_it_and_the_balance_tells(
    syncing: Syncing, fragments: Fragments, duplicates: str
) -> None:
    syncing.server.set_behaviour(duplicates=duplicates)
    fragments.add("front", "run")
    fragments.add("rear", "run")
    assert syncing.once().exit_code == 0
    assert syncing.values("run") == {**FRONT_KEPT, **REAR}
    assert syncing.server.report().run("run").once_and_in_place
    (found,) = balance(syncing)
    assert (found.rows_logged, found.delivered, found.superseded) == (200, 180, 20)
    assert found.holds and not found.doubled


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_fragment_that_was_delivered_before_its_restart_existed_keeps_its_rows_and_none_moves(
    syncing: Syncing, fragments: Fragments, duplicates: str
) -> None:
    syncing.server.set_behaviour(duplicates=duplicates)
    fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    fragments.add("rear", "run")
    assert syncing.once().exit_code == 0
    front = {step: float(step) for step in range(100)}
    assert syncing.values("run") == {**REAR, **front}
    assert syncing.server.report().run("run").once_and_in_place
    (found,) = balance(syncing)
    assert (found.rows_logged, found.delivered, found.superseded, found.holds) == (200, 180, 20, True)


def test_a_restart_that_comes_when_the_first_fragment_is_half_delivered_loses_no_row(
    syncing: Syncing, fragments: Fragments
) -> None:
    first = fragments.add("front", "run")
    syncing.server.set_faults([Fault(FaultKind.STATUS, "graphql:HistoryPage", status=500)])
    syncing.once()
    assert fragments.state(first) == "deferred"
    syncing.server.clear_faults()
    second = fragments.add("rear", "run")
    assert syncing.until_done().exit_code == 0
    assert [fragments.state(name) for name in (first, second)] == ["delivered", "delivered"]
    assert sorted(syncing.values("run")) == list(range(180))
    (found,) = balance(syncing)
    assert found.holds and found.delivered + found.superseded == 200
    assert syncing.server.report().run("run").once_and_in_place


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_three_fragments_of_a_run_arrive_right_in_whatever_order_they_are_released(
    syncing: Syncing, fragments: Fragments, order: Sequence[int]
) -> None:
    names = [fragments.add(shape, "run") for shape in ("front", "rear", "third")]
    held = Path(fragments.spool.root, "elsewhere")
    held.mkdir()
    for name in names:
        shutil.move(fragments.place(name).path, held)
    for index in order:  # each comes into the queue alone, as by three syncers or a slow file system
        shutil.move(held / f"{names[index]}.json", fragments.spool.root / "queue" / "incoming")
        syncing.once()
    assert syncing.until_done().exit_code == 0
    values = syncing.values("run")
    assert sorted(values) == list(range(200))
    allowed = {
        step: {float(step)} if step < 80 else {float(step), step + 0.5} if step < 100 else {step + 0.5}
        for step in range(150)
    } | {step: {step + 0.5, step + 0.25} if step < 180 else {step + 0.25} for step in range(150, 200)}
    assert all(values[step] in allowed[step] for step in values)
    report = syncing.server.report().run("run")
    assert not report.moved and not report.doubled and not report.conflicting
    (found,) = balance(syncing)
    assert found.holds and found.delivered + found.superseded == 250


@pytest.mark.parametrize(
    ("endpoint", "shape"), [("file_stream", "tiny"), ("upload", "rich"), ("artifact_upload", "rich")]
)
def test_what_a_server_refuses_is_never_called_delivered_and_a_plain_sync_mends_it_later(
    syncing: Syncing, fragments: Fragments, endpoint: str, shape: str
) -> None:
    name = fragments.add(shape)
    syncing.server.set_faults([Fault(FaultKind.STATUS, endpoint, status=403)])
    result = syncing.once(patience_s=0.2)
    entry = fragments.entry(name)
    assert (fragments.state(name), result.exit_code) == ("deferred", 3)
    assert (entry.reason or "").startswith("partial: "), entry.reason
    assert "403" in (entry.reason or "") or endpoint != "file_stream"
    assert (entry.attempts, entry.refusals) == (1, 1)
    syncing.server.clear_faults()
    done = syncing.run("sync")
    assert done.returncode == 0, done.stderr
    assert fragments.state(name) == "delivered"
    assert syncing.server.report().run(entry.run_id or "").once_and_in_place


def test_a_saved_file_that_was_overwritten_after_the_run_arrives_as_it_was_when_the_run_ended(
    syncing: Syncing, home: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    program = """
import wandb
run = wandb.init(project="delivery", id="saved")
open("model.bin", "wb").write(b"first")
run.save("model.bin")
artifact = wandb.Artifact("weights", "model")
artifact.add_file("model.bin")
run.log_artifact(artifact)
run.log({"loss": 1})
"""
    cache = tmp_path / "cache"
    train(syncing.spool.root, home, sys.executable, "-c", program, cwd=work,
          WANDB_CACHE_DIR=str(cache), WANDB_CONFIG_DIR=str(cache))  # fmt: skip
    (work / "model.bin").write_bytes(b"second, longer")
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(home / ".local", ignore_errors=True)
    assert syncing.once().exit_code == 0
    run = syncing.server.report().run("saved")
    assert run.files["model.bin"].size_bytes == 5
    (artifact,) = run.artifacts
    assert (artifact.state, artifact.files["model.bin"].size_bytes) == ("COMMITTED", 5)


def test_a_persons_own_wandb_sync_in_the_spool_works_and_is_believed_only_after_the_read_back(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("rich")
    entry = fragments.entry(name)
    directory = entry.run_directory(fragments.spool.root)
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(directory)],
        env=syncing.environment(), cwd=syncing.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(directory.glob("*.synced"))
    sent = syncing.sent()
    result = syncing.once()
    assert (fragments.state(name), result.exit_code) == ("delivered", 0)
    assert not outcome_of(result, name).pushed
    assert syncing.sent() == sent, "something was sent again"


def test_a_synced_marker_that_nobody_earned_is_not_believed(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny")
    entry = fragments.entry(name)
    directory = entry.run_directory(fragments.spool.root)
    (directory / f"run-{entry.run_id}.wandb.synced").touch()
    assert syncing.once().exit_code == 0
    assert syncing.steps(entry.run_id or "") == list(range(20))


def test_everything_that_a_run_owns_arrives_and_nothing_is_sent_twice(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("rich")
    run_id = fragments.entry(name).run_id or ""
    assert syncing.once().exit_code == 0
    run = syncing.server.report().run(run_id)
    assert {"model.bin", "we [ird] näme.txt"} <= set(run.files)
    assert {"table", "images"} == {path.split("/")[1] for path in run.files if path.startswith("media/")}
    assert sorted(artifact.type for artifact in run.artifacts) == ["model", "run_table"]
    assert run.config["net"] == {"depth": 2} and run.tags == ("a",)
    assert set(run.uploads.values()) == {1}
    assert any("a line on the console" in line for line in run.console)
    receipt = fragments.entry(name).receipt or {}
    assert (receipt["level"], receipt["artifacts"], receipt["rows_delivered"]) == ("rows", 2, 12)
    sent = syncing.sent()
    assert syncing.once(everything=True).outcomes == [] and syncing.sent() == sent


def test_rows_config_and_summary_of_every_kind_are_the_same_when_they_are_read_back(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("values")
    result = syncing.once()
    assert result.exit_code == 0, result.outcomes
    assert not fragments.entry(name).attempts > 1
    (found,) = balance(syncing)
    assert found.holds and found.missing == found.conflicting == 0


def test_sync_of_one_run_leaves_the_others_alone(syncing: Syncing, fragments: Fragments) -> None:
    chosen, other = fragments.add("tiny"), fragments.add("tiny")
    assert syncing.once(Options(only=frozenset({chosen}), patience_s=2.0)).exit_code == 0
    assert (fragments.state(chosen), fragments.state(other)) == ("delivered", "incoming")


def test_a_dry_run_says_what_would_be_sent_and_changes_nothing(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny")
    before = {path: path.read_bytes() for path in fragments.spool.root.rglob("*.json")}
    result = syncing.once(dry_run=True)
    assert [planned[0] for planned in result.planned] == [name]
    assert {path: path.read_bytes() for path in fragments.spool.root.rglob("*.json")} == before
    assert not syncing.sent()
