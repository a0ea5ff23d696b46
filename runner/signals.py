"""Signals that reach the launcher: which of them the command needs to be given.

A signal is forwarded only if the command did not get it itself; a second SIGTERM means "now!" to many programs.

* From the kernel (Ctrl-C at the terminal, a hang-up): the whole foreground process group got it.
* From a process: `kill PID` reached the launcher alone; `kill -PGID`, and Slurm, which signals every process of a step,
  reached the command as well. No field of `siginfo` tells these apart, so a *witness* does: a child (`cat` on a pipe
  that never speaks) that lives in the launcher's process group and blocks every signal. What is pending for the
  witness was sent to more than the launcher. It ends when the launcher ends, however that happens.

A command that moved to a process group of its own (`timeout`, `setsid`) is outside what the terminal and `kill -PGID`
reach: it is given everything. Where there is no witness (no `cat`), everything from a process is forwarded.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SI_KERNEL = 0x80  # Linux, asm-generic/siginfo.h; Python does not name it

FORWARDED = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)
WATCHED = FORWARDED | {signal.SIGCHLD}

# A sender that signals one process after the other (Slurm) needs a moment to get from us to the witness or back.
WITNESS_PATIENCE_S = 0.1


class Origin(Enum):
    """Where a signal came from."""

    KERNEL = "kernel"
    PROCESS = "process"


def origin(code: int) -> Origin:
    """By `si_code`: everything that a process can send is at most 0, the kernel's own is above."""
    return Origin.KERNEL if code > 0 else Origin.PROCESS


def needs_forwarding(origin: Origin, *, witnessed: bool, same_group: bool) -> bool:
    """Whether the command has to be given a signal that the launcher got."""
    if not same_group:
        return True
    return origin is Origin.PROCESS and not witnessed


@dataclass
class Witness:
    """A process beside the command that shows which signals were sent to more than the launcher."""

    pid: int = 0
    _pipe: int = -1
    _used: bool = False

    def start(self) -> None:
        """Start it; without a `cat` there is none, and everything from a process is forwarded."""
        self._used = False
        inner, self._pipe = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self.pid = os.posix_spawn(
                _cat(),
                ["cat"],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, inner, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, null, 2),
                ],
                setsigmask=signal.valid_signals(),
            )
        except OSError:
            self.pid = 0
        finally:
            os.close(inner)
            os.close(null)

    def saw(self, number: int, patience_s: float = WITNESS_PATIENCE_S) -> bool:
        """Whether the signal was sent to the witness too.

        What is pending stays pending: until `refresh`, a repeated signal is judged like the first.
        """
        if not self.pid:
            return False
        deadline = time.monotonic() + patience_s
        while not _pending(self.pid, number):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        self._used = True
        return True

    def refresh(self) -> None:
        """Replace a witness that saw something. For a quiet moment: what is on its way to it is forgotten."""
        if self._used:
            self.stop()
            self.start()

    def stop(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def _cat() -> str:
    return next((path for path in ("/bin/cat", "/usr/bin/cat") if os.access(path, os.X_OK)), "/bin/cat")


def _pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process: the process-wide mask in /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("ShdPnd:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
