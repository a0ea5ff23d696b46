"""What Slurm knows of the job of a writer that can't be seen from here.

Asks `squeue`, and `sacct` about what the controller has forgotten, once for each job and object. Guarantees: never
raises; waits at most `timeout_s` for an answer and, where one did not come, asks that program no more. What is not
certain is `UNKNOWN`, and then the sequence number of `alive` decides: a program that is missing, an accounting database
that is not there, another cluster that numbers its jobs alike, a node that Slurm lost (its processes may live on).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from .identity import Identity

TIMEOUT_S = 5.0


class Fate(Enum):
    """What Slurm's word means for the processes of one incarnation of a job."""

    RUNS = "runs"
    OVER = "over"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Job:
    """A job as Slurm describes it."""

    state: str
    restarts: int
    uid: int | None = None


_RUNS = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "PREEMPTED", "REQUEUED"})
# Not among them is NODE_FAIL: the controller lost the node, and what ran there may run on.


def fate(job: Job | None, restart_count: int, uid: int | None) -> Fate:
    """What became of the incarnation with this restart count. Pure."""
    if job is None or job.restarts != restart_count:
        return Fate.UNKNOWN  # requeued since: ended by Slurm, unless that was because it lost the node
    if job.uid is not None and uid is not None and job.uid != uid:
        return Fate.UNKNOWN
    if job.state in _RUNS:
        return Fate.RUNS
    return Fate.OVER if job.state in _OVER else Fate.UNKNOWN


def from_squeue(answer: str, job_id: str) -> Job | None:
    """The line of this job in `squeue -O JobArrayID:|,State:|,RestartCnt:|,UserID:|`. Pure."""
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) >= 4 and parts[0] == job_id and parts[2].isdecimal():
            return Job(parts[1], int(parts[2]), int(parts[3]) if parts[3].isdecimal() else None)
    return None


def from_sacct(answer: str, job_id: str, restart_count: int) -> Job | None:
    """The incarnation in `sacct -D -X -P -o JobID,State,UID`, which has a line for each, oldest first. Pure."""
    lines = [line.split("|") for line in answer.splitlines()]
    own = [parts for parts in lines if len(parts) >= 3 and parts[0] == job_id]
    if len(own) <= restart_count:
        return None
    state, uid = own[restart_count][1].split(), own[restart_count][2]  # "CANCELLED by 1000"
    return Job(state[0], restart_count, int(uid) if uid.isdecimal() else None) if state else None


Ask = Callable[[Sequence[str]], "str | None"]


def ask(words: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str | None:
    """What a program prints; None when it is not there, fails or takes too long."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass
class Slurm:
    """Slurm's word on the jobs of writers, for one look at the spool."""

    ask: Ask = ask
    _cluster: str | None = None
    _fates: dict[tuple[str, int], Fate] = field(default_factory=dict)
    _no_database: bool = False

    def fate(self, writer: Identity | None) -> Fate:
        """What became of the job that this writer ran in, as far as the Slurm of this host can know."""
        if writer is None or writer.slurm_job_id is None or not self._same_cluster(writer.slurm_cluster):
            return Fate.UNKNOWN
        job, restarts = writer.slurm_job_id, writer.slurm_restart_count or 0
        if (job, restarts) not in self._fates:
            self._fates[job, restarts] = self._look(job, restarts, writer.uid)
        return self._fates[job, restarts]

    def _look(self, job: str, restarts: int, uid: int | None) -> Fate:
        columns = "JobArrayID:|,State:|,RestartCnt:|,UserID:|"
        answer = self.ask(["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={columns}"])
        found = None if answer is None else from_squeue(answer, job)
        if found is None and not self._no_database:
            words = ["sacct", "-n", "-P", "-X", "-D", f"--jobs={job}", "--format=JobID,State,UID"]
            answer = self.ask(words)
            self._no_database = answer is None
            found = None if answer is None else from_sacct(answer, job, restarts)
        return fate(found, restarts, uid)

    def _same_cluster(self, name: str | None) -> bool:
        """Whether the Slurm that answers here is the one that ran the writer."""
        if not name:
            return False
        if self._cluster is None:
            answer = self.ask(["scontrol", "show", "config"]) or ""
            lines = [line.partition("=") for line in answer.splitlines()]
            self._cluster = next((value.strip() for key, _, value in lines if key.strip() == "ClusterName"), "")
        return name == self._cluster
