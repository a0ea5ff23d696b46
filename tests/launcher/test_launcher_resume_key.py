"""A restarted job continues its run where that is certain, and only there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from wandb_spool.runner.resume_key import decide, job_key, rank, run_id

from .processes import Launching

JOB = {"SLURM_JOB_ID": "42", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
SHOW = (
    "import json, os; key = json.loads(os.environ.get('WANDB_SPOOL_RESUME_KEY', '{}'));"
    "print(json.dumps({**key, 'launch': os.path.basename(os.environ['WANDB_SPOOL_LAUNCH'])}))"
)
KEEPS = "import os; open(os.environ['WANDB_DATA_DIR'] + '/x', 'w').close();" + SHOW


def attempt(launching: Launching, **environ: str) -> dict[str, Any]:
    """One launch that leaves something behind; the resume key that its command saw."""
    done = launching.run(sys.executable, "-c", KEEPS, **environ)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_outside_a_job_there_is_no_key(launching: Launching) -> None:
    assert list(json.loads(launching.run(sys.executable, "-c", SHOW).stdout)) == ["launch"]


def test_requeued_job_has_the_key_of_its_first_attempt_and_knows_its_predecessor(launching: Launching) -> None:
    first = attempt(launching, **JOB)
    second = attempt(launching, **JOB, SLURM_RESTART_COUNT="1")
    third = attempt(launching, **JOB, SLURM_RESTART_COUNT="2")
    assert first["key"] == second["key"] == third["key"]
    assert [item["attempt"] for item in (first, second, third)] == [0, 1, 2]
    assert [first["predecessor"], second["predecessor"], third["predecessor"]] == [
        None,
        first["launch"],
        second["launch"],
    ]


def test_several_launches_of_one_command_in_a_job_never_merge(launching: Launching) -> None:
    """A k-fold loop whose fold is told by the environment alone."""
    first = [attempt(launching, **JOB, FOLD=str(fold)) for fold in range(2)]
    again = [attempt(launching, **JOB, FOLD=str(fold), SLURM_RESTART_COUNT="1") for fold in range(2)]
    keys = [item["key"] for item in (*first, *again)]
    assert len(set(keys)) == 4
    assert [item["ambiguous"] for item in again] == [True, True]


def test_launch_that_logged_nothing_is_nobodys_predecessor(launching: Launching) -> None:
    launching.run(sys.executable, "-c", SHOW, **JOB)
    assert launching.launches() == []
    done = launching.run(sys.executable, "-c", SHOW, **JOB, SLURM_RESTART_COUNT="1")
    assert json.loads(done.stdout)["predecessor"] is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (JOB, {**JOB, "SLURM_JOB_ID": "43"}),
        (JOB, {**JOB, "SLURM_STEP_ID": "1"}),
        (JOB, {**JOB, "SLURM_PROCID": "1"}),
        (JOB, {**JOB, "SLURM_CLUSTER_NAME": "other"}),
        (
            {**JOB, "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"},
            {**JOB, "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"},
        ),
    ],
)
def test_jobs_tasks_steps_processes_and_clusters_are_told_apart(
    one: Mapping[str, str], other: Mapping[str, str]
) -> None:
    assert job_key(one, ["train"]) != job_key(other, ["train"])


def test_array_task_has_one_key_although_its_job_id_changes() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"}
    assert job_key({**array, "SLURM_JOB_ID": "41"}, ["t"]) == job_key({**array, "SLURM_JOB_ID": "57"}, ["t"])


def test_commands_are_told_apart_also_by_where_their_words_end() -> None:
    assert job_key(JOB, ["a b"]) != job_key(JOB, ["a", "b"])


def test_name_continues_whatever_launch_had_it_last(launching: Launching) -> None:
    def named(*command: str) -> dict[str, Any]:
        return dict(json.loads(launching.run(*command, options=["--resume-key", "chain"]).stdout))

    first, second = named(sys.executable, "-c", KEEPS), named(sys.executable, "-c", KEEPS, "another command")
    assert (first["key"], second["named"]) == (second["key"], True)
    assert second["predecessor"] == first["launch"]


def test_run_ids_are_the_same_for_the_same_place_and_differ_for_every_other() -> None:
    ids = {run_id(key, rank, ordinal) for key in ("a", "b") for rank in ("0", "1") for ordinal in range(3)}
    assert len(ids) == 12
    assert run_id("a", "0", 0) == run_id("a", "0", 0)
    assert all(len(item) == 12 and item.isascii() and item.isalnum() and item == item.lower() for item in ids)


def test_rank_of_a_distributed_program_outranks_that_of_the_step() -> None:
    assert (rank({"RANK": "3", "SLURM_PROCID": "1"}), rank({"SLURM_PROCID": "1"}), rank({})) == ("3", "1", "0")


def test_restart_after_a_hole_in_the_counts_continues_the_latest() -> None:
    earlier = [{"launch": "a", "restart_count": 0}, {"launch": "b", "restart_count": 2}]
    decided = decide("k", named=False, restart_count=3, launch="new", earlier=earlier)
    assert (decided.key, decided.predecessor, decided.ambiguous) == ("k", "b", False)
