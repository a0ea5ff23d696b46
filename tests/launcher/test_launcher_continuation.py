"""A restarted job goes on with its run: same id, its predecessor named, steps where they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.spool.log import rows
from wandb_spool.spool.queue import Spool

from .processes import Launching

IMPLICIT = """
import sys, wandb
run = wandb.init(project="p", id={id!r}, resume={resume!r})
print("starts at", run.step, run.resumed)
for value in range(5):
    run.log({{"value": value, "part": int(sys.argv[1])}})
run.finish()
"""

FOLDS = """
import os, wandb
for fold in range(2):
    run = wandb.init(project="folds")
    os.write(1, f"run {run.id} {run.step}\\n".encode())  # in one piece: two programs write to one pipe
    for value in range(3):
        run.log({"value": value})
    run.finish()
"""


def fragments(root: Path) -> list[dict[str, Any]]:
    """Manifests in the order of their launches."""
    found = [json.loads(path.read_text()) for path in sorted(root.glob("runs/*/*/wandb/offline-run-*/manifest.json"))]
    return sorted(found, key=lambda body: (body["started"], body["fragment"]))


def steps(spool: Spool, manifest: dict[str, Any]) -> list[int]:
    log = spool.paths.launch(manifest["launch"]) / manifest["log"]["path"]
    return [row.step for row in rows(log)]


def test_a_resumed_run_without_steps_of_its_own_goes_on_behind_its_predecessor(launching: Launching) -> None:
    (launching.home / "train.py").write_text(IMPLICIT.format(id="again", resume="allow"))
    said = [launching.run("python", "train.py", str(part)) for part in range(3)]
    assert [done.returncode for done in said] == [0, 0, 0]
    assert [line for done in said for line in done.stdout.splitlines() if "starts" in line] == [
        "starts at 0 False",
        "starts at 5 True",
        "starts at 10 True",
    ]
    found = fragments(launching.spool)
    spool = Spool.open(launching.spool)
    assert [steps(spool, body) for body in found] == [list(range(n, n + 5)) for n in (0, 5, 10)]
    names = [f"{body['launch']}.{body['fragment']}" for body in found]
    assert [body["predecessor"] for body in found] == [None, *names[:2]]
    assert [(body["rows_logged"], body["rows_lost"], body["calls_refused"]) for body in found] == [(5, 0, 0)] * 3


def test_a_program_that_does_not_ask_to_resume_begins_where_it_says(launching: Launching) -> None:
    (launching.home / "train.py").write_text(IMPLICIT.format(id="again", resume=None))
    for part in range(2):
        assert launching.run("python", "train.py", str(part)).returncode == 0
    spool = Spool.open(launching.spool)
    assert [steps(spool, body) for body in fragments(launching.spool)] == [[0, 1, 2, 3, 4]] * 2


ONE = """
import wandb
run = wandb.init(project="one")
print("run", run.id, run.step)
for value in range(3):
    run.log({"value": value})
"""


def attempt(launching: Launching, count: int, *options: str) -> list[list[str]]:
    """Run ids and first steps of one attempt of a Slurm job."""
    slurm = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(count)}
    done = launching.run("python", "train.py", options=options, **slurm)
    assert done.returncode == 0, done.stderr
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("run ")]


def test_a_requeued_job_continues_its_run(launching: Launching) -> None:
    (launching.home / "train.py").write_text(ONE)
    first, second, third = (attempt(launching, count) for count in range(3))
    assert [steps for _, steps in first + second + third] == ["0", "3", "6"]
    assert len({run for run, _ in first + second + third}) == 1


def test_a_requeued_loop_over_folds_never_continues_the_wrong_fold(launching: Launching) -> None:
    # Restarted after its first fold, a program may begin with the second one: nobody can know.
    (launching.home / "train.py").write_text(FOLDS)
    found = [run for count in range(3) for run in attempt(launching, count)]
    assert len({run for run, _ in found}) == len(found) == 6
    assert {step for _, step in found} == {"0"}


def test_a_requeued_loop_continues_run_by_run_under_a_resume_key(launching: Launching) -> None:
    (launching.home / "train.py").write_text(FOLDS)
    first, second = (attempt(launching, count, "--resume-key", "chain") for count in (0, 1))
    assert [run for run, _ in first] == [run for run, _ in second]
    assert [step for _, step in first + second] == ["0", "0", "3", "3"]


def test_a_chained_job_continues_its_run_though_an_argument_names_another_checkpoint(launching: Launching) -> None:
    (launching.home / "train.py").write_text(ONE)
    (launching.home / "copy").mkdir()
    (launching.home / "copy" / "train.py").write_text(ONE)
    found = []
    for command in (["train.py"], ["train.py", "--load", "1.pt"], ["copy/train.py", "--load", "2.pt"]):
        done = launching.run("python", *command, options=["--resume-key", "chain"])
        found += [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("run ")]
    assert [step for _, step in found] == ["0", "3", "6"]
    assert len({run for run, _ in found}) == 1


@pytest.mark.parametrize("together", [False, True], ids=["one after another", "at once"])
def test_several_trainings_of_one_job_never_become_one_run(launching: Launching, together: bool) -> None:
    for name in ("first.py", "second.py"):
        (launching.home / name).write_text(FOLDS)
    join = "& " if together else "; "
    script = f"python first.py {join} python second.py {join} python second.py; wait"
    done = launching.run("bash", "-c", script, SLURM_JOB_ID="78", SLURM_RESTART_COUNT="0")
    ids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("run")]
    assert len(ids) == 6
    assert len(set(ids)) == 6
