"""Checks of what a syncer stands on: file system, room, key, server, clock. Each says what is wrong and how to mend it.

Guarantee: a check never raises for the trouble that it looks for and never shows a key or a proxy's password; nothing
in the spool is changed but a probe file that is removed at once. A server gets one cheap question.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib import metadata
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from wandb_spool.spool.configuration import Configuration, Destination
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.spool.words import size

from .addresses import is_loopback
from .concerns import LITTLE_BYTES, LITTLE_INODES, Cause, Concern
from .destinations import CLOUD, api_key, default_destination, route
from .failures import DeliveryError, Failure
from .notifying import message, tell_by, ways, wrong_with
from .service import open_server
from .wake import Watcher, file_system_of, needs_polling

NO_BYTES = 64 << 20
NO_INODES = 500
CLOCK_S = 300.0
QUOTA_TIMEOUT_S = 3.0
OLDEST_WANDB = (0, 31)
MARKERS_COUNTED = 10_000
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


class Verdict(str, Enum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    what: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        return {"name": self.name, "verdict": self.verdict.value, "what": self.what, "mend": self.mend}


def ok(name: str, what: str) -> Check:
    return Check(name, Verdict.OK, what)


def warn(name: str, what: str, mend: str) -> Check:
    return Check(name, Verdict.WARN, what, mend)


def bad(name: str, what: str, mend: str) -> Check:
    return Check(name, Verdict.BAD, what, mend)


# -- the spool's place -------------------------------------------------------------------------------------------------


def file_system(spool: Spool) -> Check:
    """The kind of file system, and how the daemon will notice new runs there."""
    kind = file_system_of(spool.root)
    if needs_polling(kind):
        return ok("file system", f"{kind}: shared between hosts, the daemon polls")
    watcher = Watcher([spool.paths.queue(State.INCOMING)])
    watcher.start()
    try:
        if not watcher.alive():
            mend = "raise fs.inotify.max_user_watches/instances; until then the scan (`--scan`) finds new runs"
            return warn("file system", f"{kind}: new runs can't be watched for", mend)
        heard = "events do not come, the daemon polls" if watcher.polling else "the daemon gets events"
        return ok("file system", f"{kind}: {heard}")
    finally:
        watcher.stop()


def room(spool: Spool) -> Iterator[Check]:
    """Free bytes and inodes, as they are for somebody who is not root."""
    try:
        free = os.statvfs(spool.root)
    except OSError as error:
        yield bad("room", f"can't be told: {os.strerror(error.errno or 0)}", "look whether the file system is there")
        return
    free_bytes = free.f_bavail * free.f_frsize
    yield judge_room("room", free_bytes, f"{size(free_bytes)} free", LITTLE_BYTES, NO_BYTES)
    if free.f_files:  # btrfs and others have no fixed number of inodes
        yield judge_room("inodes", free.f_favail, f"{free.f_favail} files can be made", LITTLE_INODES, NO_INODES)


def judge_room(name: str, left: int, what: str, little: int, none: int) -> Check:
    mend = "`wandb-spool prune --older-than 7d` frees what was delivered and read back"
    if left < none:
        return bad(name, what, mend)
    return warn(name, what, mend) if left < little else ok(name, what)


def quota(spool: Spool) -> Iterator[Check]:
    """What `quota` and `lfs quota` say; nothing where neither answers."""
    kind = file_system_of(spool.root)
    if kind == "lustre":
        printed = _printed(["lfs", "quota", "-q", "-u", str(os.getuid()), str(spool.root)])
    else:
        printed = _printed(["quota", "-w", "-p", "-f", str(_mount_point(spool.root))])
    line = quota_line(printed)
    if line is not None:
        yield judge_quota(line)


def quota_line(printed: str) -> tuple[int, int, int, int] | None:
    """Blocks used and allowed (KiB), files used and allowed; None where there is no quota to be seen.

    Both programs print: file system, blocks, soft limit, hard limit, grace, files, soft limit, hard limit, grace. A `*`
    marks what is exceeded; a limit of 0 is none.
    """
    for line in printed.splitlines():
        words = line.split()
        if len(words) >= 8 and all(re.fullmatch(r"\[?\d+\*?\]?", words[index]) for index in (1, 2, 3, 5, 6, 7)):
            numbers = [int(word.strip("[]*")) if word.strip("[]*").isdigit() else 0 for word in words]
            blocks, files = numbers[3] or numbers[2], numbers[7] or numbers[6]
            return (numbers[1], blocks, numbers[5], files) if blocks or files else None
    return None


def judge_quota(line: tuple[int, int, int, int]) -> Check:
    used_kib, blocks, files, allowed = line
    parts, fullest = [], 0.0
    if blocks:
        parts.append(f"{size(used_kib * 1024)} of {size(blocks * 1024)}")
        fullest = used_kib / blocks
    if allowed:
        parts.append(f"{files} of {allowed} files")
        fullest = max(fullest, files / allowed)
    what = "used: " + ", ".join(parts)
    mend = "`wandb-spool prune --older-than 7d`, or ask for more"
    if fullest >= 0.99:
        return bad("quota", what, mend)
    return warn("quota", what, mend) if fullest >= 0.9 else ok("quota", what)


def _printed(words: Sequence[str]) -> str:
    if shutil.which(words[0]) is None:
        return ""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=QUOTA_TIMEOUT_S, stdin=subprocess.DEVNULL, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # a quota server that does not answer tells nothing
    return done.stdout


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path


def place(root: Path, environ: Mapping[str, str]) -> Check:
    """Whether the spool lies where machines clean up by themselves."""
    temporary = [Path(name).resolve() for name in (*TEMPORARY, environ.get("TMPDIR") or "/tmp")]
    within = next((path for path in temporary if root.resolve().is_relative_to(path)), None)
    if within is None:
        return ok("place", str(root))
    mend = "`wandb-spool init DIR` on project or scratch space, and WANDB_SPOOL_DIR=DIR or --spool DIR"
    return warn("place", f"{root} lies in {within}, which is emptied by itself", mend)


def modes(spool: Spool) -> Check:
    """Whether others may read what was logged."""
    mode = stat.S_IMODE(spool.root.stat().st_mode)
    if spool.group and not mode & stat.S_ISGID:
        what = f"{mode:04o}: the setgid bit is gone, what is written from now on is not the group's ({spool.group})"
        return bad("modes", what, f"`find {spool.root} -type d -exec chmod g+s {{}} +`")
    strangers = 0o007 if spool.group else 0o077
    if not mode & strangers:
        return ok(
            "modes", f"{mode:04o}" + (f", shared with the group {spool.group}" if spool.group else ", yours alone")
        )
    mend = f"`chmod {mode & ~strangers:o} {spool.root}`"
    if mode & (0o002 if spool.group else 0o022):
        return bad("modes", f"{mode:04o}: others may write into the spool", mend)
    return warn("modes", f"{mode:04o}: others may read configurations and code of runs", mend)


def markers(spool: Spool) -> Check:
    """`.synced` markers beside logs: `wandb clean` deletes runs by them, and they prove nothing."""
    within = islice(spool.paths.runs.glob("*/*/wandb/*/*.wandb.synced"), MARKERS_COUNTED)
    found = sum(1 for _ in within)
    if not found:
        return ok("markers", "no `.synced` markers in the spool")
    mend = "don't run `wandb clean` or `wandb sync --clean` there; `wandb-spool prune` deletes only what has a receipt"
    return warn("markers", f"{found} runs have a `.synced` marker, by which wandb deletes them", mend)


# -- the way out -------------------------------------------------------------------------------------------------------


def destinations(
    configuration: Configuration, waiting: Iterable[Entry], environ: Mapping[str, str]
) -> dict[tuple[str, str], Destination]:
    """Every server that is configured or waited for; the default one where there is neither."""
    found: dict[tuple[str, str], Destination] = {}
    for name, given in configuration.destinations.items():
        destination = default_destination(configuration, environ) if name == "default" else given
        found[name, destination.base_url or CLOUD] = destination
    for entry in waiting:
        try:
            way = route(entry, configuration, environ)
        except DeliveryError:
            continue  # `status` tells what is wrong with a run; here it is about servers
        found.setdefault((way.destination.name, way.base_url), way.destination)
    if not found:
        destination = default_destination(configuration, environ)
        found["default", destination.base_url or CLOUD] = destination
    return found


def reach(destination: Destination, base_url: str, environ: Mapping[str, str], now_s: float) -> Iterator[Check]:
    """The key of a destination, and what its server says to it."""
    name = f"server {destination.name}"
    try:
        key = api_key(destination, environ)
    except DeliveryError as error:
        yield bad(f"key {destination.name}", error.detail, error.policy.mend)
        return
    yield ok(f"key {destination.name}", f"there is one for {base_url}")
    try:
        server = open_server(destination, base_url, key, environ)
    except DeliveryError as error:
        yield bad(name, str(error), error.policy.mend)
        return
    try:
        account = server.account()
        who = account.username or account.entity or "somebody"
        yield ok(name, f"{base_url} answers and knows the key ({who})")
    except DeliveryError as error:
        yield bad(name, str(error), _way_out(base_url) if error.failure is Failure.UNREACHABLE else error.policy.mend)
    finally:
        told = server.told_date
        server.close()
    yield from clock_check(base_url, told, now_s)


def _way_out(base_url: str) -> str:
    return (
        f"what waits is tried again by itself; if it lasts, `curl -I {base_url}` here: a firewall may be in the way, or"
        " a proxy that is not set (HTTPS_PROXY, or `proxy` of the destination)"
    )


def clock_check(base_url: str, told: str | None, now_s: float) -> Iterator[Check]:
    """This host's clock against the `Date` of an answer; nothing where there was none."""
    try:
        difference_s = now_s - parsedate_to_datetime(told).timestamp() if told else None
    except (ValueError, TypeError):
        difference_s = None
    if difference_s is None:
        return
    if abs(difference_s) <= CLOCK_S:
        yield ok("clock", f"agrees with {base_url}")
        return
    way = "ahead of" if difference_s > 0 else "behind"
    mend = "let the host's time be set by NTP (`timedatectl`): certificates and the times of runs depend on it"
    yield warn("clock", f"{abs(difference_s):.0f} s {way} {base_url}", mend)


def proxies(environ: Mapping[str, str], found: Iterable[tuple[Destination, str]]) -> Iterator[Check]:
    """Which variables decide the way out, and those that only some programs read."""
    seen = {
        name: environ.get(name) or environ.get(name.lower())
        for name in PROXIES
        if environ.get(name) or environ.get(name.lower())
    }
    told = [f"{name}={without_password(value or '')}" for name, value in seen.items()]
    told += [f"{name}={environ[name]}" for name in CERTIFICATES if environ.get(name)]
    told += [f"proxy of {item.name}={without_password(item.proxy)}" for item, _ in found if item.proxy]
    gone = [name for name in CERTIFICATES if environ.get(name) and not os.path.exists(environ[name])]
    if gone:
        yield bad("proxy", f"{gone[0]} names {environ[gone[0]]}, which is not there", f"mend or unset {gone[0]}")
        return
    outside = any(not is_loopback(base_url) for _, base_url in found)
    yield ok("proxy", ", ".join(told) or ("none is set: the way out is direct" if outside else "none is needed"))


def without_password(address: str) -> str:
    """A proxy's address without who logs in there."""
    with_scheme = address if "://" in address else f"//{address}"
    parts = urlsplit(with_scheme)
    if "@" not in parts.netloc:
        return address
    shown = urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
    return shown if "://" in address else shown.removeprefix("//")


def notifications(configuration: Configuration, environ: Mapping[str, str]) -> Check:
    """Whether anybody is told when a person is needed."""
    wrong = next(wrong_with(configuration.notify, environ), None)
    if wrong is not None:
        return bad("notifications", *wrong)
    names = ", ".join(way.name for way in ways(configuration.notify, environ))
    if not names:
        return ok("notifications", "off: nobody is told; `command` or `urls_file` in [notify] turns them on")
    return ok("notifications", f"by {names}; `wandb-spool doctor --notify` sends one to try them")


def try_notifications(
    spool: Spool, configuration: Configuration, environ: Mapping[str, str], now_s: float
) -> Iterator[Check]:
    """Send one message by every way that is set up."""
    found = ways(configuration.notify, environ)
    if not found:
        mend = "set `command` or `urls_file` in [notify] of the configuration"
        yield bad("notification", "there is no way to send one", mend)
    trial = Concern(Cause.TEST, "this is a test, all is well", "there is nothing to do")
    for way in found:
        failed = tell_by(way, message(trial, spool, now_s), environ)
        if failed is None:
            yield ok("notification", f"{way.name} took a test message: look whether it arrived")
        else:
            yield bad("notification", f"{way.name}: {failed}", "mend [notify] in the configuration, then try again")


def wandb_version(found: str | None) -> Check:
    """Whether `wandb sync` of this environment is new enough to deliver with."""
    mend = "`python -m pip install 'wandb>=0.31'` in the syncer's own environment; yours to train with can stay"
    if found is None:
        return bad("wandb", "not installed here: nothing can be delivered", mend)
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST_WANDB:
        return bad("wandb", f"{found} is too old to deliver with (0.31 or newer)", mend)
    return ok("wandb", found)


def installed_wandb() -> str | None:
    try:
        return metadata.version("wandb")
    except metadata.PackageNotFoundError:
        return None
