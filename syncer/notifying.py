"""Tell somebody when a person is needed: by a command of theirs, or by apprise (mail, chat, push services).

Guarantees: at most one message a cause and day, across restarts and hosts (remembered in the spool's `syncers/told/`,
on this host's own disk where the spool can't be written); no shell, and no text of a run as a part of a command but
where the person put `{text}`; the key of an account is not handed on. A notifier that fails, hangs or is not there
costs a bounded time and one line, never a delivery; it is tried again after an hour.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from wandb_spool.spool import clock, durable
from wandb_spool.spool.configuration import Configuration, Notify
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.identity import host_name
from wandb_spool.spool.observations import cache_directory
from wandb_spool.spool.queue import Spool

from .concerns import DAY_S, Cause, Concern, concerns, room_of
from .service import PassResult

URLS = "WANDB_SPOOL_NOTIFY_URLS"
TEXT = "WANDB_SPOOL_NOTIFY_TEXT"
TIMEOUT_S = 10.0
PASS_S = 20.0
"""What all notifiers together may take after one pass; the rest is told after the next one."""
LOOK_S = 600.0
"""Between two looks at what waits, while nothing happens."""
SAME_DAY_S = 20 * 3600.0
RETRY_S = 3600.0
BROKEN_S = 900.0
"""A spool that can't be used for a moment is a hiccup of a file server, and nobody is woken for it."""
KEPT_DAYS = 7


# -- the ways to tell --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to tell: its name for people, and the words of a process that gets the message on standard input."""

    name: str
    words: tuple[str, ...]


def ways(notify: Notify, environ: Mapping[str, str]) -> list[Way]:
    """The ways that are set up."""
    found = [Way(f"`{notify.command[0]}`", notify.command)] if notify.command else []
    if notify.urls_file is not None or environ.get(URLS):
        file = [] if notify.urls_file is None else [str(notify.urls_file)]
        found.append(Way("apprise", (sys.executable, "-m", "wandb_spool.syncer.apprise_notifier", *file)))
    return found


def wrong_with(notify: Notify, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What would keep a message from being told, without telling one: what, and its mend."""
    if notify.command and shutil.which(notify.command[0], path=environ.get("PATH")) is None:
        yield f"there is no program `{notify.command[0]}`", "mend `command` in [notify]: an absolute path is best"
    if notify.urls_file is None and not environ.get(URLS):
        return
    if find_spec("apprise") is None:
        yield "apprise is not installed here", f"`{sys.executable} -m pip install 'wandb-spool[notify]'`"
    if notify.urls_file is None:
        return
    try:
        mode = notify.urls_file.stat().st_mode
    except OSError as error:
        yield f"can't read {notify.urls_file}: {os.strerror(error.errno or 0)}", "mend `urls_file` in [notify]"
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"others may read {notify.urls_file}, which holds secrets", f"`chmod 600 {notify.urls_file}`"


def message(concern: Concern, spool: Spool, now_s: float) -> dict[str, object]:
    """What a command reads from its standard input."""
    return {
        "format": 1,
        "text": one_line(concern, spool),
        "cause": concern.cause.value,
        "about": concern.about,
        "what": concern.what,
        "mend": concern.mend,
        "number": concern.number,
        "entries": list(concern.entries),
        "spool": str(spool.root),
        "host": host_name(),
        "at": clock.iso(now_s),
    }


def one_line(concern: Concern, spool: Spool) -> str:
    """One line without control characters: what happened and what to type were read from files of many people."""
    line = f"wandb-spool on {host_name()}: {concern.text} (spool {spool.root})"
    return "".join(character if character.isprintable() else " " for character in line)[:2000]


def tell_by(
    way: Way,
    body: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    timeout_s: float = TIMEOUT_S,
    stopping: Callable[[], bool] = lambda: False,
) -> str | None:
    """Hand a message to one notifier; None when it took it, else what was wrong, in a few words."""
    text = str(body["text"])
    words = [word.replace("{text}", text) for word in way.words]
    kept = {name: value for name, value in environ.items() if name != "WANDB_API_KEY"}
    try:
        process = subprocess.Popen(
            words,
            env={**kept, TEXT: text},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"it could not be started: {error}"
    return _ended(process, json.dumps(body).encode(), time.monotonic() + timeout_s, stopping)


def _ended(
    process: subprocess.Popen[bytes], content: bytes, until_s: float, stopping: Callable[[], bool]
) -> str | None:
    said, given = b"", content or None
    while True:
        try:
            _, said = process.communicate(given, timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            given = None  # what was begun goes on
        if process.poll() is not None:  # a child of it holds its standard error open
            break
        if stopping() or time.monotonic() > until_s:
            _kill(process)
            return "it did not end in time"
    if process.returncode == 0:
        return None
    return f"it ended with {process.returncode}: {' '.join(said.decode(errors='replace').split())[-300:]}".rstrip(": ")


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            pipe.close()


# -- at most one a cause and day ---------------------------------------------------------------------------------------


class Told:
    """What was told. Directories are asked in turn: the first that can be written remembers."""

    def __init__(self, directories: Sequence[Path], now_s: Callable[[], float]) -> None:
        self._directories = directories
        self._now_s = now_s
        self._here: dict[str, float] = {}
        """For a host on which nothing can be written."""

    def claim(self, key: str) -> bool:
        """Whether this is ours to tell now: nobody told it today, or telling it failed a while ago."""
        now_s = self._now_s()
        records = [_record(directory / name) for directory in self._directories for name in self._names(key, now_s)]
        if any(record is not None and not _told_anew(record, now_s) for record in records):
            return False
        if now_s - self._here.get(key, -DAY_S) < SAME_DAY_S:
            return False
        return self._write(key, now_s, told=True, new=records[0] is None)

    def failed(self, key: str) -> None:
        """The claim was in vain: it may be tried again, later."""
        self._here.pop(key, None)
        self._write(key, self._now_s(), told=False, new=False)

    def _names(self, key: str, now_s: float) -> list[str]:
        mark = sha256(key.encode()).hexdigest()[:16]
        return [f"{clock.compact(day_s)[:8]}-{mark}" for day_s in (now_s, now_s - DAY_S)]

    def _write(self, key: str, now_s: float, *, told: bool, new: bool) -> bool:
        body = durable.encode_json({"format": 1, "key": key, "at": clock.iso(now_s), "host": host_name(), "told": told})
        for directory in self._directories:
            path = directory / self._names(key, now_s)[0]
            if not directory.parent.is_dir():
                continue  # a share that is not mounted: nothing must grow below its mount point
            try:
                durable.make_directory(directory)
                if new:
                    self._sweep(directory, now_s)
                    return durable.create_exclusively(path, body)
                durable.write(path, body)
                return True
            except (SpoolError, OSError):
                continue
        if told:
            self._here[key] = now_s
        return told

    def _sweep(self, directory: Path, now_s: float) -> None:
        oldest = clock.compact(now_s - KEPT_DAYS * DAY_S)[:8]
        for path in directory.iterdir():
            if path.name[:8].isdigit() and path.name[:8] < oldest:
                path.unlink(missing_ok=True)


def _record(path: Path) -> dict[str, object] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None  # not there, or not to be read: then it can't be written either
    try:
        return durable.decode_json(content)
    except ValueError:
        return {}  # damaged: as told now


def _told_anew(record: Mapping[str, object], now_s: float) -> bool:
    """Whether what a record says does not keep from telling it again."""
    at_s = clock.seconds(str(record.get("at")))
    if at_s is None:
        return False
    return abs(now_s - at_s) >= (SAME_DAY_S if record.get("told") else RETRY_S)


# -- after a pass ------------------------------------------------------------------------------------------------------


class Notifier:
    """Looks at what a pass left, and tells what needs a person. Never raises for its own troubles."""

    def __init__(
        self,
        spool: Spool,
        configuration: Configuration,
        environ: Mapping[str, str],
        tell: Callable[[str], None],
        *,
        stopping: Callable[[], bool] = lambda: False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._configuration = configuration
        self._environ = environ
        self._tell = tell
        self._stopping = stopping
        self._now_s = now_s
        self._ways: list[Way] = []
        own = cache_directory()
        try:
            own.mkdir(parents=True, exist_ok=True)
        except OSError:
            pass  # then this process alone remembers
        self._told = Told([spool.paths.syncers / "told", own / f"{spool.spool_id}.told"], now_s)
        self._broken = own / f"{spool.spool_id}.broken"
        self._looked_s: float | None = None

    def after_pass(self, result: PassResult, configuration: Configuration | None = None) -> None:
        """Tell what needs a person now; a daemon's configuration may have changed since the last pass."""
        self._configuration = configuration or self._configuration
        self._ways = ways(self._configuration.notify, self._environ)
        if not self._ways or self._stopping():
            return
        now = time.monotonic()
        if not result.eventful and self._looked_s is not None and now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        self._tell_all(self._concerns(result), now + PASS_S)

    def _concerns(self, result: PassResult) -> list[Concern]:
        if result.broken is not None:
            return self._of_a_broken_pass(result.broken, full=result.disk_full)
        self._broken.unlink(missing_ok=True)
        found = concerns(result.left, self._configuration, self._now_s(), room_of(self._spool))
        if result.unreadable:
            what = f"{result.unreadable[0]} (one of {len(result.unreadable)}); the other runs are not touched"
            found.append(Concern(Cause.DAMAGED, what, "`wandb-spool doctor`", number=len(result.unreadable)))
        return found

    def _of_a_broken_pass(self, broken: str, *, full: bool) -> list[Concern]:
        what = f"the spool could not be used: {broken}. What is sealed is not lost, but nothing is delivered"
        if full:
            return [Concern(Cause.DISK, what, "`wandb-spool prune --older-than 7d`, or free some room")]
        now_s = self._now_s()
        try:
            since_s = float(self._broken.read_text())
        except (OSError, ValueError):
            since_s = now_s
            try:
                self._broken.write_text(str(now_s))
            except OSError:
                since_s = 0.0  # nothing can remember it: told at once
        return [Concern(Cause.SPOOL, what, "`wandb-spool doctor`")] if now_s - since_s >= BROKEN_S else []

    def _tell_all(self, found: Sequence[Concern], until_s: float) -> None:
        for concern in found:
            if time.monotonic() > until_s or self._stopping():
                return
            if self._told.claim(concern.key):
                self._tell_one(concern, until_s)

    def _tell_one(self, concern: Concern, until_s: float) -> None:
        body = message(concern, self._spool, self._now_s())
        wrong = {}
        for way in self._ways:
            left_s = max(1.0, min(TIMEOUT_S, until_s - time.monotonic()))
            failed = tell_by(way, body, self._environ, timeout_s=left_s, stopping=self._stopping)
            if failed is not None:
                wrong[way.name] = failed
        if len(wrong) == len(self._ways):
            self._told.failed(concern.key)
        if wrong:
            said = "; ".join(f"{name}: {what}" for name, what in wrong.items())
            self._tell(f"warning: a notification ({concern.cause}) was not taken; nothing else is affected. {said}")
