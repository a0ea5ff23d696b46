"""Wake the daemon when work arrives: file system events where they come, polling where they don't.

inotify is silent about changes that another host makes on a network file system; the call works and no event ever
comes. So the observer is chosen by the kind of file system, and a probe file shows whether events really come. Events
are hints: a watcher that dies or is deaf costs latency only, because the daemon scans anyway.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from .stopping import Wake

logging.getLogger("watchdog").addHandler(logging.NullHandler())  # its warnings are for programmers

POLL_S = 1.0
PROBE_S = 2.0
PROBE_PREFIX = ".probe-"

SHARED_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "afs",
        "9p",
        "orangefs",
        "pvfs2",
        "glusterfs",
    }
)


def file_system_of(path: Path, mountinfo: str | None = None) -> str:
    """The kind of file system a path lies on, from /proc/self/mountinfo; `unknown` where that can't be told."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return "unknown"
    wanted = path.resolve()
    best, kind = -1, "unknown"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if wanted.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


def needs_polling(kind: str) -> bool:
    """Whether inotify is deaf to other hosts there."""
    return kind in SHARED_FILE_SYSTEMS or kind.startswith("fuse")


class _Handler(FileSystemEventHandler):
    def __init__(self, woken: Callable[[], None], probed: Callable[[str], None]) -> None:
        self._woken = woken
        self._probed = probed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("created", "moved"):
            return
        name = Path(str(event.dest_path or event.src_path)).name
        if name.startswith(PROBE_PREFIX):
            self._probed(name)
        elif not name.startswith("."):
            self._woken()


class Watcher:
    """Sets `event` when a file appears in one of the directories. Start it again when `alive()` is False."""

    def __init__(self, directories: Sequence[Path], *, poll_s: float = POLL_S, probe_s: float = PROBE_S) -> None:
        self.event = Wake()
        self.polling = any(needs_polling(file_system_of(directory)) for directory in directories)
        self._directories = list(directories)
        self._poll_s = poll_s
        self._probe_s = probe_s
        self._observer: BaseObserver | None = None
        self._probes: set[str] = set()
        self._probe_seen = threading.Event()

    def start(self) -> None:
        """Watch; falls back to polling when events don't come. What can't be watched is left to the scan."""
        self._begin()
        if not self.polling and not self.probe():
            self.stop()
            self.polling = True
            self._begin()

    def _begin(self) -> None:
        observer = PollingObserver(timeout=self._poll_s) if self.polling else Observer()
        handler = _Handler(self.event.set, self._probed)
        try:
            for directory in self._directories:
                observer.schedule(handler, str(directory), recursive=False)
            observer.start()
        except OSError:
            # inotify watches are used up, or the directory vanished for a moment: the scan goes on
            self._observer = None
            return
        self._observer = observer

    def probe(self) -> bool:
        """Make a file and see whether its event comes."""
        name = f"{PROBE_PREFIX}{secrets.token_hex(6)}"
        path = self._directories[0] / name
        self._probes.add(name)
        self._probe_seen.clear()
        try:
            path.touch(mode=0o600)
            return self._probe_seen.wait(self._probe_s)
        except OSError:
            return True  # the spool can't be written just now: that tells nothing about events
        finally:
            path.unlink(missing_ok=True)

    def _probed(self, name: str) -> None:
        if name in self._probes:
            self._probe_seen.set()

    def alive(self) -> bool:
        return self._observer is not None and self._observer.is_alive()

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5.0)
            self._observer = None
