"""A Slurm cluster of two nodes on loopback, private to one test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket,cred_expire=5
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/ctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmctldLogFile={at}/ctld.log
SlurmdLogFile={at}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no cluster here."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"needs Slurm: {', '.join(missing)} not installed"
    return None if os.getuid() == 0 else "needs root to start slurmctld and slurmd"


@contextmanager
def cluster(at: Path) -> Iterator[dict[str, str]]:
    """A cluster that runs; yields the environment for its clients."""
    at.mkdir(parents=True)
    at.chmod(0o755)
    (at / "state").mkdir()
    host = socket.gethostname().split(".")[0]
    ctld, n1, n2 = _free_ports(3)
    configuration = at / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(at=at, host=host, ctld=ctld, n1=n1, n2=n2))
    environ = {**os.environ, "SLURM_CONF": str(configuration), "PATH": _path()}
    (at / "munge.key").write_bytes(os.urandom(128))
    (at / "munge.key").chmod(0o400)
    started = [_start(["munged", "--foreground", "--force", "--key-file", f"{at}/munge.key", "--socket",
                       f"{at}/munge.socket", "--pid-file", f"{at}/munge.pid", "--seed-file", f"{at}/munge.seed",
                       "--log-file", f"{at}/munge.log"], environ)]  # fmt: skip
    try:
        _wait(lambda: (at / "munge.socket").exists(), "munged")
        started.append(_start(["slurmctld", "-D", "-i", "-c"], environ))
        started += [_start(["slurmd", "-D", "-N", name], environ) for name in ("n1", "n2")]
        _wait(lambda: _idle(environ), "the nodes")
        yield {"SLURM_CONF": str(configuration)}
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _start(words: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _idle(environ: dict[str, str]) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environ, capture_output=True, text=True)
    return done.stdout.split() == ["idle", "2"]


def _wait(ready: object, what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    assert callable(ready)
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not start"
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(item.getsockname()[1]) for item in held]
    for item in held:
        item.close()
    return ports
