"""SIGTERM (Slurm's preemption and time limit, a service manager, a person) becomes a clean finish and exit 143.

Guarantees: a handler of the program's own is respected, whether it was there first or comes later (Lightning chains
the one that it finds: then the end is Lightning's). The runs are finished within ``PATIENCE_S`` of the signal even
while the main thread is inside one long call; the process ends within ``GRACE_S`` even if the program swallows the
SystemExit. Forked children get Python's default back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from . import deferral
from .exits import exit_code
from .finishing import finish_all
from .process import Process

PATIENCE_S = 1.0  # the main thread may be in one long call; then another thread finishes the runs
GRACE_S = 9.0
FINISH_S = 3.0  # per attempt, without any progress
EXIT_CODE = 128 + signal.SIGTERM


class Terminator:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._pid = 0
        self._begun = threading.Event()
        self._finishing = threading.Lock()
        self._masks = threading.local()
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._in_child)

    def install(self) -> None:
        """Take SIGTERM over if nobody else has it. Only the main thread may set handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        signal.signal(signal.SIGTERM, self._handle)
        self._pid = os.getpid()
        self._watch_wakeups()

    def _hold(self) -> None:
        """A SIGTERM that meets a child before it gave the parent's pipe back would look like the parent's own."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_child(self) -> None:
        self._restore_default()
        self._let_go()

    def _restore_default(self) -> None:
        """A forked child ends as it would without us: a DataLoader worker must die at once."""
        if self._pid == 0 or self._pid == os.getpid():
            return
        try:
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.set_wakeup_fd(-1)  # the pipe is the parent's
        except ValueError:
            pass  # forked from a thread
        self._pid, self._finishing = 0, threading.Lock()
        self._begun = threading.Event()

    def _watch_wakeups(self) -> None:
        """Python handlers wait for the end of a long C call; the wakeup descriptor does not."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if previous != -1:
            signal.set_wakeup_fd(previous, warn_on_full_buffer=False)  # somebody's event loop: theirs
            os.close(read)
            os.close(write)
            return
        threading.Thread(target=self._wait, args=(read,), name="wandb-spool-sigterm", daemon=True).start()

    def _wait(self, read: int) -> None:
        while True:
            data = os.read(read, 64)
            if not data:
                return
            if signal.SIGTERM in data and signal.getsignal(signal.SIGTERM) == self._handle:
                break
        if not self._begun.wait(PATIENCE_S):
            self._finish()
        time.sleep(GRACE_S - PATIENCE_S)
        self._die()

    def _handle(self, number: int, frame: Any) -> None:
        if signal.getsignal(signal.SIGTERM) != self._handle:
            return  # somebody chained us: the end is theirs to decide
        self._begun.set()
        exit_code.patience_s = FINISH_S
        deferral.run(self._end)

    def _end(self) -> None:
        if not self._process.here():
            self._die()
        self._finish()
        sys.exit(EXIT_CODE)

    def _finish(self) -> None:
        if self._finishing.acquire(blocking=False):  # never released: a process is terminated once
            exit_code.patience_s = FINISH_S
            finish_all(self._process, EXIT_CODE)

    def _die(self) -> None:
        """By the signal itself, as without us; the launcher says 143."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001, S110 - a broken stream must not keep the process
                pass
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        except ValueError:  # not in the main thread
            os._exit(EXIT_CODE)
