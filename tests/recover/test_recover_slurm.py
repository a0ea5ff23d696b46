"""Slurm's word on a job: as pure judgement, then from a real Slurm whose jobs are preempted, cancelled and lost."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from launcher.processes import Launching, until
from slurm_cluster import Slurm as Cluster
from slurm_cluster import slurm as cluster_of

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.identity import Identity
from wandb_spool.spool.log import rows
from wandb_spool.spool.manifest import Manifest
from wandb_spool.spool.recover import Observations, judge
from wandb_spool.spool.slurm import Fate, Job, Slurm, ask, fate, from_sacct, from_squeue
from wandb_spool.spool.states import State

from .looking import Looking


@pytest.mark.parametrize(
    ("job", "restarts", "verdict"),
    [
        (Job("RUNNING", 0, 7), 0, Fate.RUNS),
        (Job("COMPLETING", 2, 7), 2, Fate.RUNS),
        (Job("CANCELLED", 0, 7), 0, Fate.OVER),
        (Job("TIMEOUT", 0), 0, Fate.OVER),
        (Job("NODE_FAIL", 0, 7), 0, Fate.UNKNOWN),  # the node may live on where the controller can't see it
        (Job("RUNNING", 1, 7), 0, Fate.UNKNOWN),  # requeued since
        (Job("PENDING", 1, 7), 0, Fate.UNKNOWN),
        (Job("COMPLETED", 0, 8), 0, Fate.UNKNOWN),  # somebody else's job with the same number
        (Job("OF_NEXT_YEAR", 0, 7), 0, Fate.UNKNOWN),
        (None, 0, Fate.UNKNOWN),
    ],
)
def test_a_job_proves_life_or_death_only_of_its_own_incarnation(job: Job | None, restarts: int, verdict: Fate) -> None:
    assert fate(job, restarts, uid=7) is verdict


def test_answers_are_read_by_job_and_incarnation() -> None:
    queue = "12_3|RUNNING|1|1000|\n12_4|PENDING|0|1000|\n"
    assert from_squeue(queue, "12_3") == Job("RUNNING", 1, 1000)
    assert from_squeue(queue, "12") is None
    assert from_squeue("slurm of another age: nonsense\n||||\n", "12") is None
    database = "12|PREEMPTED|1000\n12|CANCELLED by 0|1000\n13|RUNNING|1000\n"
    assert from_sacct(database, "12", 0) == Job("PREEMPTED", 0, 1000)
    assert from_sacct(database, "12", 1) == Job("CANCELLED", 1, 1000)
    assert from_sacct(database, "12", 2) is None and from_sacct("", "12", 0) is None


WRITER = Identity("n7", "b", "p", 1, 1, slurm_job_id="12", slurm_restart_count=None, uid=7, slurm_cluster="c")


def test_whoever_does_not_answer_leaves_it_to_the_sequence_number() -> None:
    asked: list[str] = []

    def silent(words: object) -> str | None:
        assert isinstance(words, list)
        asked.append(words[0])
        return "ClusterName = c" if words[0] == "scontrol" else None

    slurm = Slurm(silent)
    assert slurm.fate(WRITER) is Fate.UNKNOWN and slurm.fate(WRITER) is Fate.UNKNOWN
    assert slurm.fate(replace(WRITER, slurm_job_id="13")) is Fate.UNKNOWN
    assert asked == ["scontrol", "squeue", "sacct", "squeue"], "each job once, a missing database once"
    assert slurm.fate(replace(WRITER, slurm_cluster="another")) is Fate.UNKNOWN
    assert slurm.fate(replace(WRITER, slurm_cluster=None)) is Fate.UNKNOWN
    assert slurm.fate(None) is Fate.UNKNOWN and len(asked) == 4
    assert ask(["sleep", "60"], timeout_s=0.1) is None and ask(["/nonexistent/squeue"]) is None


# -- a real Slurm ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        with cluster_of(root) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


TRAIN = """
import os, sys, time, wandb
run = wandb.init(project="p")
restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
print("restarted" if restarted else "started", run.id, run.resumed, run.step, flush=True)
for row in range(20):
    run.log({"row": row})
if not restarted:
    open("logged-" + sys.argv[1], "w").close()
    while not os.path.exists("go-" + sys.argv[1]):
        time.sleep(0.1)
    run.log({"row": "the last"})
run.finish()
"""


@dataclass
class Jobs:
    """Batch jobs that train under the launcher."""

    cluster: Cluster
    launching: Launching

    def submit(self, name: str, *options: str) -> str:
        home = self.launching.home
        (home / "train.py").write_text(TRAIN)
        words = self.launching.command(sys.executable, "train.py", name)
        script = home / f"{name}.sh"
        script.write_text(f"#!/bin/sh\ncd {home}\nexec {' '.join(words)}\n")
        out = f"--output={home / name}.out"
        environ = self.launching.environment()
        return self.cluster.submit(script, out, "--open-mode=append", *options, environ=environ)

    def out(self, name: str) -> str:
        path = self.launching.home / f"{name}.out"
        return path.read_text() if path.exists() else ""

    def until_logged(self, name: str) -> None:
        until((self.launching.home / f"logged-{name}").exists, f"the rows of {name}\n{self.out(name)}")

    def go(self, name: str) -> None:
        (self.launching.home / f"go-{name}").touch()

    def attempts(self, count: int) -> list[list[tuple[Entry, Manifest]]]:
        """The fragments of each launch, once there are so many launches and nothing is open.

        Slurm signals every process of a job. wandb-core ends by SIGTERM as well, and what is left to write (the exit
        record at least) then goes into one more fragment of the same attempt.
        """
        looking = Looking(self.launching.spool)

        def by_launch() -> dict[str, list[tuple[Entry, Manifest]]]:
            found: dict[str, list[tuple[Entry, Manifest]]] = {}
            for entry, manifest in looking.sealed():
                found.setdefault(entry.launch, []).append((entry, manifest))
            return found

        def all_sealed() -> bool:
            looking.once()
            return len(by_launch()) == count and not list(looking.spool.places(State.OPEN))

        until(all_sealed, f"{count} sealed launches in {self.launching.spool}")
        return list(by_launch().values())


def rows_of(attempt: list[tuple[Entry, Manifest]]) -> tuple[list[int | None], list[int]]:
    return [manifest.rows_logged for _, manifest in attempt], [manifest.rows_kept for _, manifest in attempt]


@pytest.fixture
def jobs(cluster: Cluster, launching: Launching, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    return Jobs(cluster, launching)


def test_preempted_job_finishes_cleanly_and_goes_on_with_its_run_when_it_is_requeued(jobs: Jobs) -> None:
    job = jobs.submit("low", "--nodelist=n1", "--exclusive", "--requeue")
    jobs.until_logged("low")
    high = jobs.launching.home / "high.sh"
    high.write_text("#!/bin/sh\nsleep 1\n")
    jobs.cluster.submit(high, "--partition=high", "--nodelist=n1", "--exclusive", "--output=/dev/null")
    until(lambda: "restarted" in jobs.out("low"), "the second attempt")
    before, after = jobs.attempts(2)
    entry, manifest = before[-1]
    assert (manifest.exit_code, manifest.exit_known_from) == (143, "record"), jobs.out("low")
    logged, kept = rows_of(before)
    assert logged == kept and sum(kept) == 20
    ((later, manifest),) = after
    assert later.run_id == entry.run_id and manifest.predecessor == entry.name
    assert later.writer is not None
    assert (later.writer.slurm_job_id, later.writer.slurm_restart_count) == (job, 1)
    assert f"restarted {later.run_id} True 20" in jobs.out("low"), "it knows that it resumes, and where"
    assert (manifest.first_step, manifest.rows_logged, manifest.rows_kept) == (20, 20, 20)


def test_cancelled_job_finishes_cleanly_and_slurm_says_that_it_is_over(jobs: Jobs) -> None:
    job = jobs.submit("cancelled")
    jobs.until_logged("cancelled")
    looking = Looking(jobs.launching.spool)
    (place,) = looking.spool.places(State.OPEN)
    entry = looking.spool.read(place)
    elsewhere = unseen(looking, entry)
    assert Slurm().fate(elsewhere.writer) is Fate.RUNS
    verdict = judge(looking.spool, elsewhere, Observations(), 1e9, stale_after_s=0.0, slurm=Slurm())
    assert verdict.lives and verdict.why == "its Slurm job runs", "however long it keeps silent"
    jobs.cluster.ask("scancel", job)
    (attempt,) = jobs.attempts(1)
    _, manifest = attempt[-1]
    assert (manifest.exit_code, manifest.exit_known_from) == (143, "record")
    logged, kept = rows_of(attempt)
    assert logged == kept and sum(kept) == 20
    until(lambda: jobs.cluster.state(job).startswith("CANCELLED"), "the end of the job")
    assert Slurm().fate(elsewhere.writer) is Fate.OVER


def unseen(looking: Looking, entry: Entry) -> Entry:
    """The entry as one of a host that can't be seen from here; its launch too."""
    assert entry.writer is not None
    record = entry.launch_directory(looking.spool.root) / "launch.json"
    record.write_text(record.read_text().replace(f'"host": "{entry.writer.host}"', '"host": "n7"'))
    return replace(entry, writer=replace(entry.writer, host="n7"))


def test_dead_node_whose_training_lives_on_is_a_second_writer_that_is_told_and_kept_apart(jobs: Jobs) -> None:
    job = jobs.submit("lost", "--nodelist=n2", "--requeue")
    jobs.until_logged("lost")
    looking = Looking(jobs.launching.spool)
    (place,) = looking.spool.places(State.OPEN)
    old = looking.spool.read(place)
    jobs.cluster.kill_node("n2")
    try:
        jobs.cluster.ask("scontrol", "update", f"JobId={job}", "ReqNodeList=n1")
        until(lambda: "restarted" in jobs.out("lost"), "the second attempt")
        until(lambda: len(looking.sealed()) == 1, "the end of the second attempt")
        assert f"{place.name}): if its process still lives, both write one run" in jobs.out("lost")
        told = looking.once()
        assert [(item.entry, item.state) for item in told] == [(place.name, State.OPEN)], "it lives: nobody seals it"
        assert Slurm().fate(old.writer) is Fate.UNKNOWN, "requeued: that proves nothing of the lost one"
        jobs.go("lost")
        ((first, before),), ((second, after),) = jobs.attempts(2)
    finally:
        jobs.go("lost")
        jobs.cluster.start_node("n2")
    assert first.name == place.name and first.run_id == second.run_id and after.predecessor == first.name
    assert (before.rows_kept, after.rows_kept) == (21, 20)
    for entry, manifest in ((first, before), (second, after)):
        assert manifest.log_path is not None
        log = entry.launch_directory(looking.spool.root) / manifest.log_path
        assert len(list(rows(log))) == manifest.rows_logged == manifest.rows_kept
