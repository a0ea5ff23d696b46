"""The sign of life of one fragment (docs/format.md, "alive").

Guarantees: one file, opened once, written in place by one ``pwrite`` of 256 bytes; a forked child never writes its
parent's file. Who writes returns when the line is written, but waits for no disk that does not answer: then lines are
left out until it does. Fails silently after one notice: a spool that can't be written must not disturb training.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from queue import SimpleQueue
from typing import Callable, List, Optional, Tuple

from .notice import say_once

LINE_BYTES = 256
BEAT_S = 1.0  # the format asks for 2 s; a loaded machine is late
LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs"))
PATIENCE_S = 0.2  # a loaded machine is given time, or a count would fall behind what is logged


def format_line(seq: int, rows: int, refused: int, step: int, phase: str, exit_code: int, pid: int) -> bytes:
    body = (
        f"wandb-spool alive 1 seq={seq:012d} rows={rows:012d} refused={refused:012d} step={step:020d} "
        f"phase={phase:<8} exit={exit_code:04d} pid={pid:010d} "
    )
    line = body.encode("ascii")
    return (line + b"crc=%08x" % zlib.crc32(line)).ljust(LINE_BYTES - 1) + b"\n"


def is_local(fd: int) -> bool:
    """Whether the file lies on a disk of this host; one that can't be found may hang like a file server."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
            kinds = [line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2:3] == [number]]
    except OSError:
        return False
    return bool(kinds) and kinds[0] in LOCAL


class Pen:
    """Writes one file; where a file server may stop to answer, from a thread of its own.

    A line waits only for the one before it, and not for ever. The thread costs 15 us a line, a local disk 2.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: SimpleQueue[Optional[Tuple[bytes, threading.Lock]]] = SimpleQueue()
        self._under_way: Optional[threading.Lock] = None  # held until a line that came late is written
        self._thread = None if is_local(fd) else self._start()

    def _start(self) -> Optional[threading.Thread]:
        thread = threading.Thread(target=self._run, name="wandb-spool-pen", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return None  # the interpreter ends and starts no thread any more
        return thread

    def write(self, line: bytes) -> None:
        if not self.answers():
            return
        if self._thread is None:
            self._put(line)
            return
        written = threading.Lock()
        written.acquire()
        self._lines.put((line, written))
        if not written.acquire(timeout=PATIENCE_S):
            self._under_way = written

    def answers(self) -> bool:
        """Whether no line is under way for longer than it may take."""
        late = self._under_way
        if late is not None and late.acquire(blocking=False):
            self._under_way = None
        return self._under_way is None

    def close(self, line: bytes) -> None:
        """Write the last line, late or not. In the thread, too: closing a file of a network file system writes."""
        if self._thread is None:
            self._put(line)
            os.close(self._fd)
            return
        written = threading.Lock()
        written.acquire()
        self._lines.put((line, written))
        self._lines.put(None)
        if self.answers():
            written.acquire(timeout=PATIENCE_S)

    def _run(self) -> None:
        for line, written in iter(self._lines.get, None):
            self._put(line)
            written.release()
        os.close(self._fd)

    def _put(self, line: bytes) -> None:
        try:
            os.pwrite(self._fd, line, 0)
        except OSError:
            pass  # the disk is full: the next line comes within a second


class Alive:
    def __init__(self, path: str) -> None:
        self.path = path
        self.phase = "running"
        self.exit_code = -1
        self._seq = 0
        self._pid = os.getpid()
        self._closed = False
        self._pen = Pen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def write(self, rows: int, refused: int, step: int) -> None:
        if not self._is_ours():
            return
        self._pen.write(self._line(rows, refused, step))
        if not self._pen.answers():
            say_once("pen", f"the disk of {self.path} does not answer; training goes on")

    def end(self, rows: int, refused: int, step: int) -> None:
        """The last line."""
        if self._is_ours():
            self._closed = True
            self._pen.close(self._line(rows, refused, step))

    def answers(self) -> bool:
        return self._pen.answers()

    def _is_ours(self) -> bool:
        return not self._closed and os.getpid() == self._pid

    def _line(self, rows: int, refused: int, step: int) -> bytes:
        self._seq += 1
        return format_line(self._seq, rows, refused, step, self.phase, self.exit_code, self._pid)


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
