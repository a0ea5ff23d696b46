"""A small process beside the command that makes what is logged survive the death of the node.

Every few seconds it brings the logs of the launch to the disk (`fsync`), or with a stage carries what is new into the
spool; it seals what is finished, and looks how much room there is. A process of its own, because a disk or a file
server that hangs would hold up the launcher, who has signals to pass on. Guarantees: it disturbs nobody (lowest
priority, no signal but SIGKILL, no output but what the launcher asks for), and never outlives both the launcher and the
last process that holds a log open. Fails silently: what it could not do, the seal does.
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

from .preflight import Guard
from .sealing import Sealer

if TYPE_CHECKING:
    from wandb_spool.spool.staging import Stage

EVERY_S = 3.0
_LAST_WORDS_S = 1.0
_SEALS_S = 60.0


@dataclass
class Keeper:
    """The process, seen from the launcher, who never waits for it: its disk may hang."""

    launch: Launch
    stage: Stage | None = None
    every_s: float = EVERY_S
    _pid: int = 0
    _life: int = -1  # closed when the launcher is gone
    _words: int = -1  # what it has to say; closed when it and all of its seals have ended

    def start(self) -> None:
        """Start it, once. A launcher that can't fork goes without."""
        if self._pid:
            return
        try:
            life, self._life = os.pipe()
            self._words, words = os.pipe()
            self._pid = os.fork()
        except OSError:
            return
        if self._pid:
            os.close(life)
            os.close(words)
            os.set_blocking(self._words, False)
            return
        try:
            _keep_to_oneself(life, words)
            _Work(self.launch, self.stage, words).until_nobody_is_left(life, self.every_s)
        except BaseException:  # noqa: BLE001, S110 - a forked copy of the launcher must end here, whatever happens
            pass
        finally:
            os._exit(0)

    def heard(self) -> list[str]:
        """Lines that a person should see."""
        text = _read(self._words) if self._pid > 0 else None
        return text.decode(errors="replace").splitlines() if text else []

    def stop(self) -> None:
        """End it, and wait for a seal that it has begun. One that hangs on its disk is left behind."""
        if self._pid <= 0:
            return
        pid, self._pid = self._pid, -1
        os.close(self._life)
        deadline = time.monotonic() + _LAST_WORDS_S
        ended = False
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended before, and was collected
            os.kill(pid, signal.SIGKILL)
            while not (ended := os.waitpid(pid, os.WNOHANG) != (0, 0)) and time.monotonic() < deadline:
                time.sleep(0.005)
        deadline = time.monotonic() + _SEALS_S
        while ended and _read(self._words) != b"" and time.monotonic() < deadline:
            select.select([self._words], [], [], 0.2)


def _read(pipe: int) -> bytes | None:
    """What is in the pipe; empty at its end, None where there is nothing yet."""
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return None


def _keep_to_oneself(*pipes: int) -> None:
    """Hold nothing open that somebody may wait for the end of, and be in nobody's way."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in pipes:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.nice(10)
    # The launcher fetches signals; here they stay blocked for good.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@dataclass
class _Work:
    """What it does every few seconds, as long as the launcher lives; then only what keeps rows."""

    launch: Launch
    stage: Stage | None
    words: int

    def until_nobody_is_left(self, life: int, every_s: float) -> None:
        keep: Callable[[], None] = _carrying(self.stage) if self.stage is not None else _Syncing(self.launch)
        sealer, guard = Sealer(self.launch), Guard(self.launch.spool.root)
        while not select.select([life], [], [], every_s)[0]:
            with contextlib.suppress(Exception):  # the spool is out of reach for now
                keep()
                sealer.poll()
                self._say(guard.look())
        while _written_to(self.launch, self.stage):
            with contextlib.suppress(Exception):
                keep()
            time.sleep(every_s)

    def _say(self, line: str | None) -> None:
        if line is not None:
            os.write(self.words, f"{line}\n".encode())


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
