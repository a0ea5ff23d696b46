"""Runs that own little, values that few programs log, many fragments: what there is arrives, nothing else is asked."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wandb_spool.spool.alive import SHARED_NAME
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import LineCounts

from .fragments import Fragments, train
from .syncing import Syncing, balance

LITTLE = """
import os
import wandb

with wandb.init(project="delivery", id="only-config", config={"lr": 0.1}):
    pass
with wandb.init(project="delivery", id="nothing"):
    pass
with wandb.init(project="delivery", id="only-summary") as run:
    run.summary["best"] = 0.5
with wandb.init(project="delivery", id="only-artifact") as run:
    artifact = wandb.Artifact("weights", "model")
    with artifact.new_file("model.bin", "wb") as file:
        file.write(os.urandom(100))
    run.log_artifact(artifact)
with wandb.init(project="delivery", id="only-files") as run:
    for name in ("a.txt", "b.txt"):
        open(name, "w").write(name)
        run.save(name)
for step in range(2):
    with wandb.init(project="delivery", id="must", resume="must") as run:
        run.log({"loss": step}, step=step)
with wandb.init(project="delivery", id="never", resume="never") as run:
    run.log({"loss": 1})
with wandb.init(project="delivery", id="numbers") as run:
    run.log({"one": 1, "float one": 1.0, "p53": 2**53 + 1, "p64": 2**64 + 1, "p400": 10**400, "low": -(2**63)})
    run.log({"truth": True, "text": "1", "list": [1, 1.0, 2**60 + 1], "overflow": 1e308 * 10})
"""


@pytest.mark.parametrize("counts", [LineCounts.REPORTED, LineCounts.NULL], ids=lambda item: item.value)
def test_runs_that_own_little_are_delivered_at_the_first_attempt(
    syncing: Syncing, spool: Spool, home: Path, tmp_path: Path, counts: LineCounts
) -> None:
    syncing.server.set_behaviour(line_counts=counts)
    train(spool.root, home, sys.executable, "-c", LITTLE, cwd=tmp_path)
    while not syncing.once().exit_code and len(list(spool.places(State.DELIVERED))) < 9:
        pass
    assert {spool.read(place).attempts for place in spool.places(State.DELIVERED)} == {1}
    assert [item.run_id for item in balance(syncing) if not item.holds] == []
    report = syncing.server.report()
    assert report.run("only-config").config["lr"] == 0.1
    assert report.run("only-summary").summary["best"] == 0.5
    assert report.run("only-artifact").artifacts[0].state == "COMMITTED"
    assert {"a.txt", "b.txt"} <= set(report.run("only-files").files)
    assert syncing.values("must") == {0: 0, 1: 1}


def test_a_server_that_tells_null_for_nan_holds_the_row_and_the_receipt_says_so(
    syncing: Syncing, fragments: Fragments
) -> None:
    syncing.server.set_behaviour(non_finite=False)
    name = fragments.add("values")
    assert syncing.once().exit_code == 0
    assert (fragments.state(name), fragments.entry(name).attempts) == ("delivered", 1)
    assert (fragments.entry(name).receipt or {})["rows_nan_as_null"] == 1
    assert [item.holds for item in balance(syncing)] == [True]


ENDING = """
import wandb
run = wandb.init(project="delivery", id="ended")
run.log({"loss": 1})
raise SystemExit(3)
"""


def test_a_program_that_ended_by_system_exit_is_shown_with_its_own_code(
    syncing: Syncing, spool: Spool, home: Path, tmp_path: Path
) -> None:
    train(spool.root, home, sys.executable, "-c", ENDING, cwd=tmp_path, code=3)
    assert syncing.once().exit_code == 0
    assert syncing.server.report().run("ended").exit_code == 3
    assert [item.holds for item in balance(syncing)] == [True]


def test_of_an_open_fragment_into_which_a_child_logs_too_nobody_says_how_many_rows_it_has(
    syncing: Syncing, fragments: Fragments
) -> None:
    entry = fragments.entry(fragments.add("tiny", seal=False))
    directory = entry.run_directory(fragments.spool.root)
    (alone,) = balance(syncing)
    assert alone.logged_known and alone.waiting == 20
    (directory / SHARED_NAME).touch()
    (together,) = balance(syncing)
    assert not together.logged_known and together.waiting == 0


FIVE = """
import wandb
for part, start in enumerate((0, 8, 14, 20, 26)):
    open("notes.txt", "w").write("x" * (10 + part))
    with wandb.init(project="delivery", id="run", resume="allow", config={"part": part}) as run:
        run.save("notes.txt")
        print("part", "y" * part)
        for step in range(start, start + 10):
            run.log({"loss": step + part / 10}, step=step)
"""
ORDERS = (
    ((4, 3, 2, 1, 0), LineCounts.REPORTED),
    ((1, 3, 0, 4, 2), LineCounts.REPORTED),
    ((4, 0, 2, 3, 1), LineCounts.NULL),
)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with five fragments of one run: each saved a file of the same name and overlaps the one before."""
    directory = tmp_path_factory.mktemp("five")
    train(directory / "spool", directory, sys.executable, "-c", FIVE, cwd=directory)
    return directory / "spool"


@pytest.mark.parametrize(("order", "counts"), ORDERS)
def test_five_fragments_in_any_order_of_arrival_make_one_run_with_the_files_of_the_last(
    syncing: Syncing, five: Path, order: tuple[int, ...], counts: LineCounts, tmp_path: Path
) -> None:
    syncing.server.set_behaviour(line_counts=counts)
    copy = tmp_path / "copy"
    shutil.copytree(five, copy, symlinks=True)
    syncing = replace(syncing, spool=Spool.open(copy))
    names = sorted(place.name for place in syncing.spool.places(State.INCOMING))
    assert len(names) == 5
    held = tmp_path / "elsewhere"
    held.mkdir()
    for place in list(syncing.spool.places(State.INCOMING)):
        shutil.move(place.path, held)
    for index in order:
        shutil.move(held / f"{names[index]}.json", copy / "queue" / "incoming")
        syncing.once()
    assert syncing.until_done().exit_code == 0
    values = syncing.values("run")
    assert sorted(values) == list(range(36))
    assert all(any(value == step + part / 10 for part in range(5)) for step, value in values.items())
    report = syncing.server.report().run("run")
    assert not report.moved and not report.doubled and not report.conflicting
    (found,) = balance(syncing)
    assert found.holds and found.delivered + found.superseded == 50, found
    assert report.config["part"] == 4
    newest = syncing.spool.root.glob(f"runs/*/*/wandb/{names[4].partition('.')[2]}/files/*")
    sizes = {path.name: path.stat().st_size for path in newest if path.is_file()}
    assert {"notes.txt", "requirements.txt", "output.log"} <= sizes.keys()
    for name, size in sizes.items():
        assert report.files[name].size_bytes == size, name
