"""When the power of a node goes, what was logged some seconds before is on its disk."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from launcher.processes import Launching, children, until
from mounts import Disk

from wandb_spool.spool import identity
from wandb_spool.spool.log import rows

from .looking import Looking

WAITS = """
import os, time, wandb
run = wandb.init(project="p", settings=wandb.Settings(silent=True))
for step in range(20):
    run.log({"step": step})
print("logged", os.getpid(), flush=True)
time.sleep(600)
"""


def test_rows_are_brought_to_the_disk_every_few_seconds(launching: Launching, tmp_path: Path) -> None:
    disk = Disk.make(tmp_path, size_mb=48)
    launching.spool = disk.at / "spool"
    try:
        launcher = launching.start(sys.executable, "-c", WAITS)
        assert launcher.stdout is not None
        trainer = int(launcher.stdout.readline().split()[1])
        log = next(launching.spool.glob("runs/*/*/wandb/offline-*/*.wandb"))
        until(lambda: sum(1 for _ in rows(log)) == 20, "the log to be flushed")
        until(lambda: len(children(launcher.pid)) == 3, "the keeper beside witness and command")
        time.sleep(4)  # one round of it
        own = [*children(trainer), *children(launcher.pid), launcher.pid]
        disk.cut_power()
        for pid in own:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        launcher.communicate()
        until(lambda: all(identity.start_ticks(pid) is None for pid in own), "their death")
        disk.unmount()
        disk.mount()
        looking = Looking(launching.spool)
        looking.until_sealed()
        ((_, manifest),) = looking.sealed()
        assert (manifest.rows_logged, manifest.rows_kept) == (20, 20)
    finally:
        disk.unmount()
