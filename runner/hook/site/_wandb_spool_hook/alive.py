"""The sign of life of one fragment (docs/format.md, "alive").

Guarantees: one file, opened once, written in place by one ``pwrite`` of 256 bytes; a forked child never writes its
parent's file. Fails silently after one notice: a spool that can't be written must not disturb training.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from typing import Callable, List, Optional

LINE_BYTES = 256
BEAT_S = 1.0  # the format asks for 2 s; a loaded machine is late


def format_line(seq: int, rows: int, refused: int, step: int, phase: str, exit_code: int, pid: int) -> bytes:
    body = (
        f"wandb-spool alive 1 seq={seq:012d} rows={rows:012d} refused={refused:012d} step={step:020d} "
        f"phase={phase:<8} exit={exit_code:04d} pid={pid:010d} "
    )
    line = body.encode("ascii")
    return (line + b"crc=%08x" % zlib.crc32(line)).ljust(LINE_BYTES - 1) + b"\n"


class Alive:
    def __init__(self, path: str) -> None:
        self.path = path
        self.phase = "running"
        self.exit_code = -1
        self.failed: Optional[OSError] = None
        self._seq = 0
        self._pid = os.getpid()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, rows: int, refused: int, step: int) -> None:
        fd = self._fd
        if fd < 0 or os.getpid() != self._pid:
            return
        self._seq += 1
        line = format_line(self._seq, rows, refused, step, self.phase, self.exit_code, self._pid)
        try:
            os.pwrite(fd, line, 0)
        except OSError as error:
            self.failed = error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Heart:
    """One daemon thread that beats for all fragments of this process."""

    def __init__(self) -> None:
        self._listeners: List[Callable[[], None]] = []
        self._thread: Optional[threading.Thread] = None
        self._pid = 0

    def add(self, beat: Callable[[], None]) -> None:
        if self._pid != os.getpid():  # a forked child has no threads, and nothing of its parent's to show
            self._listeners, self._thread, self._pid = [], None, os.getpid()
        self._listeners.append(beat)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="wandb-spool-alive", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # the interpreter ends; what beats now needs nobody's attention any more
            self._thread = thread

    def remove(self, beat: Callable[[], None]) -> None:
        if beat in self._listeners:
            self._listeners.remove(beat)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_S)
            for beat in list(self._listeners):
                try:
                    beat()
                except Exception:  # noqa: BLE001, S110 - one fragment's trouble must not stop the others' hearts
                    pass


heart = Heart()
