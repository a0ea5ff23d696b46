"""A small process beside the command that makes what is logged survive the death of the node.

Every few seconds it brings the logs of the launch to the disk (`fsync`), or with a stage carries what is new into the
spool. A process of its own, because a disk or a file server that hangs would hold up the launcher, who has signals to
pass on. Guarantees: it disturbs nobody (lowest priority, no signal but SIGKILL, no output), and never outlives both the
launcher and the last process that holds a log open. Fails silently: what it could not do, the seal does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import log_path

if TYPE_CHECKING:
    from wandb_spool.spool.staging import Stage

EVERY_S = 3.0
_LAST_WORDS_S = 1.0


@dataclass
class Keeper:
    """The process, seen from the launcher."""

    launch: Launch
    stage: Stage | None = None
    every_s: float = EVERY_S
    _pid: int = 0
    _pipe: int = -1

    def start(self) -> None:
        """Start it, once. A launcher that can't fork goes without."""
        if self._pid:
            return
        try:
            inner, self._pipe = os.pipe()
            self._pid = os.fork()
        except OSError:
            return
        if self._pid:
            os.close(inner)
            return
        try:
            _keep_to_oneself(inner)
            _work(self.launch, self.stage, inner, self.every_s)
        except BaseException:  # noqa: BLE001, S110 - a forked copy of the launcher must end here, whatever happens
            pass
        finally:
            os._exit(0)

    def start_if_needed(self) -> None:
        """In a quiet moment: a command that logs nothing needs none."""
        if not self._pid and self.launch.paths.fragments():
            self.start()

    def stop(self) -> None:
        """End it. One that hangs on its disk is left behind; what it may still write is what the seal writes."""
        if not self._pid:
            return
        pid, self._pid = self._pid, -1
        if pid < 0:
            return
        os.close(self._pipe)
        deadline = time.monotonic() + _LAST_WORDS_S
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended before, and was collected
            os.kill(pid, signal.SIGKILL)
            while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.005)


def _keep_to_oneself(pipe: int) -> None:
    """Hold nothing open that somebody may wait for the end of, and be in nobody's way."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != pipe:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.nice(10)
    # The launcher fetches signals; here they stay blocked for good.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _work(launch: Launch, stage: Stage | None, pipe: int, every_s: float) -> None:
    step: Callable[[], None] = _carrying(stage) if stage is not None else _Syncing(launch)
    orphaned = False
    while True:
        with contextlib.suppress(Exception):  # the spool is out of reach for now
            step()
        if orphaned:
            if not _written_to(launch, stage):
                return
            time.sleep(every_s)
        else:
            orphaned = bool(select.select([pipe], [], [], every_s)[0])  # closed: the launcher is gone


@dataclass
class _Syncing:
    """Bring logs and signs of life to the disk when they have grown."""

    launch: Launch
    _sizes: dict[Path, int] = field(default_factory=dict)

    def __call__(self) -> None:
        for directory in self.launch.paths.fragments():
            log = log_path(directory)
            if log is None or self._sizes.get(log) == log.stat().st_size:
                continue
            self._sizes[log] = log.stat().st_size
            for path in (log, directory / "alive"):
                with contextlib.suppress(OSError):
                    _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _carrying(stage: Stage) -> Callable[[], None]:
    from wandb_spool.spool.staging import Mirror

    return Mirror(stage).carry


def _written_to(launch: Launch, stage: Stage | None) -> bool:
    """Whether a process still holds a log of this launch open."""
    from wandb_spool.spool.identity import holders

    paths = launch.paths if stage is None else stage.paths
    logs = [log_path(directory) for directory in paths.fragments()]
    return any(holders(log) for log in logs if log is not None)
