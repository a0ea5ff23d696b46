"""A real Slurm of a test's own: one controller, two nodes, all on this host, no systemd, no accounting database.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge; elsewhere the test is skipped. Everything lies in one
directory and ends with the fixture. Partition `low` is preempted (requeued) by `high`.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_CONF = """\
ClusterName=rehearsal
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=300
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/slurmd.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=10
"""


@dataclass
class Slurm:
    """A running cluster; `environ` leads every Slurm program to it."""

    root: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": _PATH}

    def ask(self, *words: str) -> str:
        done = subprocess.run(words, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str, environ: dict[str, str] | None = None) -> str:
        """Submit a batch script; returns the job's number."""
        words = ["sbatch", "--parsable", *options, str(script)]
        done = subprocess.run(
            words, env={**(environ or os.environ), **self.environ}, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """What squeue says: state and restarts, as `RUNNING 0`; empty for a job that it does not know."""
        words = ["squeue", "-h", "-t", "all", "-j", job, "-O", "State:30,RestartCnt:10"]
        done = subprocess.run(words, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=30)
        return " ".join(done.stdout.split())

    def start_node(self, name: str) -> None:
        self.nodes[name] = self._start("slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Its daemon dies, what runs on it does not: how a node that lost its network looks to the controller."""
        self.nodes[name].kill()
        self.nodes[name].wait(10)
        self.ask("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=dead")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{words[0]}.out").open("ab") as out:
            process = subprocess.Popen(
                words, env={**os.environ, **self.environ}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        self._others.append(process)
        return process

    def start(self) -> None:
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        munge = [f"--{name}={self.root}/munge.{end}" for name, end in files.items()]
        (self.root / "munge.key").write_bytes(os.urandom(1024))
        (self.root / "munge.key").chmod(0o400)
        self._start("munged", "--foreground", "--force", *munge)
        _until((self.root / "munge.socket").exists, "munged")
        self._start("slurmctld", "-D", "-i", "-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        _until(self._idle, "two idle nodes")

    def _idle(self) -> bool:
        words = ["sinfo", "-h", "-N", "-o", "%N %T", "-p", "low"]
        done = subprocess.run(words, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=30)
        return done.stdout.split() == ["n1", "idle", "n2", "idle"]

    def stop(self) -> None:
        subprocess.run(["scancel", "-f", "-u", getpass.getuser()], env={**os.environ, **self.environ}, timeout=30)
        for process in reversed(self._others):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


_MUNGE_FILES = (
    ("key-file", "key"),
    ("socket", "socket"),
    ("pid-file", "pid"),
    ("seed-file", "seed"),
    ("log-file", "log"),
)


def _until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def slurm(root: Path) -> Iterator[Slurm]:
    """A cluster below `root`, a short path: its munge has a socket there."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm of its own")
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)")
    root.mkdir(mode=0o755, exist_ok=True)
    (root / "state").mkdir()
    host = socket.gethostname().split(".")[0]
    (root / "slurm.conf").write_text(_CONF.format(root=root, host=host, ports=_free_ports(3)))
    cluster = Slurm(root)
    try:
        try:
            cluster.start()
        except TimeoutError as error:
            logs = "".join(path.read_text()[-1500:] for path in root.glob("*.log"))
            print(logs, file=sys.stderr)
            pytest.skip(f"Slurm does not start here: {error}")
        yield cluster
    finally:
        cluster.stop()
