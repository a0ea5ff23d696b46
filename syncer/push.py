"""Run `wandb sync` on push views, in a scrubbed environment, and end it when it makes no progress.

Its exit code, markers and text are hints and are returned as such: `wandb sync` exits 0 and marks runs synced when the
server refused every row. Nothing that it does can reach the spool: it sees only push views. On the way out, whatever
the reason, no process of it is left.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from wandb_spool.spool.configuration import Destination, Limits

from .addresses import is_loopback
from .progress import Progress
from .progress import tree as tree_of
from .server import without_key
from .view import View

POLL_S = 0.05

REQUEST_TIMEOUTS = {
    "WANDB_X_GRAPHQL_TIMEOUT_SECONDS": "30",
    "WANDB_X_FILE_STREAM_TIMEOUT_SECONDS": "60",
}


def retries(limits: Limits) -> dict[str, str]:
    """wandb's own retries end in minutes to days; ours end soon, because only ours are followed by a read-back."""
    wait_s = limits.push_retry_wait_s
    settings = {
        "RETRY_MAX": str(limits.push_retries),
        "RETRY_WAIT_MIN_SECONDS": f"{min(0.5, wait_s):g}",
        "RETRY_WAIT_MAX_SECONDS": f"{wait_s:g}",
    }
    return {
        f"WANDB_X_{part}_{name}": value
        for part in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
        for name, value in settings.items()
    }


# `python -m wandb`, that dies with the syncer, and when the syncer was stopped for too long to still hold its leases: a
# push that outlived them would race with the next one. The syncer writes a byte to its standard input as long as all is
# well. (A function that runs between fork and exec could do the first, but not safely in a process with threads.)
_WANDB = """
import ctypes, os, runpy, select, sys, threading
ctypes.CDLL(None).prctl(1, 9)
signs = os.dup(0)
os.set_inheritable(signs, False)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
def watch(allowed_s=float(sys.argv.pop(1))):
    while select.select([signs], [], [], allowed_s)[0] and os.read(signs, 4096):
        pass
    os.killpg(0, 9)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "wandb"
sys.path.pop(0)
runpy.run_module("wandb", run_name="__main__", alter_sys=True)
"""
SIGN_EVERY_S = 0.5

_KEPT = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME",
    "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "ALL_PROXY", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@dataclass(frozen=True)
class PushResult:
    """What a push looked like. Hints only."""

    exit_code: int | None
    hung: bool
    stopped: bool
    seconds: float
    output: str
    marked: frozenset[Path]
    """Logs for which `.synced` was written."""
    troubles: Mapping[Path, Trouble] = field(default_factory=dict)
    """What wandb wrote into its own log about each run's errors."""

    def trouble(self, log: Path) -> Trouble:
        return self.troubles.get(log, Trouble())


@dataclass(frozen=True)
class Trouble:
    """The errors of one run in a push; wandb's own log tells them apart by the path of the run's log."""

    errors: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()
    """HTTP status codes with which the server refused something for good, or until wandb's retries ran out."""

    def __bool__(self) -> bool:
        return bool(self.errors or self.codes)

    def says(self, *phrases: str) -> bool:
        return any(phrase in error for error in self.errors for phrase in phrases)


def environment(
    destination: Destination, base_url: str, key: str, scratch: Path, environ: Mapping[str, str], limits: Limits
) -> dict[str, str]:
    """The scrubbed environment of a push: nothing of the syncer's WANDB_* leaks into a run."""
    kept = {name: environ[name] for name in _KEPT if name in environ}
    if "SSL_CERT_FILE" not in kept and environ.get("REQUESTS_CA_BUNDLE"):
        kept["SSL_CERT_FILE"] = environ["REQUESTS_CA_BUNDLE"]  # wandb-core knows only the former
    if destination.ca is not None:
        kept["SSL_CERT_FILE"] = str(destination.ca)
    if destination.proxy is not None:
        kept["HTTPS_PROXY"] = kept["HTTP_PROXY"] = destination.proxy
    if is_loopback(base_url):
        kept = {name: value for name, value in kept.items() if "PROXY" not in name.upper()}
    own = {
        "HOME": str(scratch / "home"),
        "WANDB_BASE_URL": base_url,
        "WANDB_API_KEY": key,
        "WANDB_DIR": str(scratch / "own"),
        "WANDB_CACHE_DIR": str(scratch / "own"),
        "WANDB_DATA_DIR": str(scratch / "own"),
        "WANDB_CONFIG_DIR": str(scratch / "own"),
        "WANDB_ARTIFACT_DIR": str(scratch / "own"),
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return {**kept, **REQUEST_TIMEOUTS, **retries(limits), **own}


def push(
    views: Sequence[View],
    destination: Destination,
    base_url: str,
    key: str,
    scratch: Path,
    environ: Mapping[str, str],
    *,
    limits: Limits,
    keep_going: Callable[[], bool] = lambda: True,
    outlives_s: float = 30.0,
    sent: Callable[[int], None] = lambda sent_bytes: None,
) -> PushResult:
    """Push views with one `wandb sync`. `keep_going` is asked all the time; False ends the push at once.

    A syncer that does not get to ask it for `outlives_s` (it was stopped, or died) has its push ended all the same.
    `sent` is told, about once a second, how many bytes servers acknowledged.

    Raises OSError when the scratch disk is full or Python can't be started.
    """
    for name in ("home", "own", "cwd"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    words = ["sync", "-n", "5", *(str(view.directory) for view in views)]
    command = [sys.executable, "-c", _WANDB, f"{outlives_s:g}", *words]
    output = scratch / "output"
    started = time.monotonic()
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environment(destination, base_url, key, scratch, environ, limits),
            cwd=scratch / "cwd",
            stdin=subprocess.PIPE,
            bufsize=0,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            hung, stopped = _watch(process, limits.no_progress_s, keep_going, sent)
        finally:
            end(process)
    text = without_key(output.read_text(errors="replace")[-20_000:], key)
    return PushResult(
        exit_code=process.returncode,
        hung=hung,
        stopped=stopped,
        seconds=time.monotonic() - started,
        output=text,
        marked=frozenset(view.log for view in views if Path(f"{view.log}.synced").exists()),
        troubles=troubles(scratch / "own", key),
    )


def _watch(
    process: subprocess.Popen[bytes],
    no_progress_s: float,
    keep_going: Callable[[], bool],
    sent: Callable[[int], None],
) -> tuple[bool, bool]:
    """Wait for the end; (hung, stopped)."""
    progress = Progress(process.pid, no_progress_s, time.monotonic())
    look_every_s = min(1.0, no_progress_s / 8)
    last_look_s = last_sign_s = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(POLL_S)
            break
        except subprocess.TimeoutExpired:
            pass
        if not keep_going():
            return False, True
        now = time.monotonic()
        if now - last_sign_s >= SIGN_EVERY_S:
            last_sign_s = now
            _give_sign(process)
        if now - last_look_s >= look_every_s:
            last_look_s = now
            still_s = progress.still_s(now)
            sent(progress.sent_bytes)
            if still_s >= no_progress_s:
                return True, False
    return False, False


def _give_sign(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(b".")
    except OSError:
        pass  # it is ending


def end(process: subprocess.Popen[bytes], *, grace_s: float = 3.0) -> None:
    """End a push and everything that it started: TERM, then KILL."""
    tree = tree_of(process.pid)
    if process.poll() is None:
        for member in tree:
            _signal(member, psutil.Process.terminate)
        gone, alive = psutil.wait_procs(tree, timeout=grace_s)
        del gone
        for member in alive:
            _signal(member, psutil.Process.kill)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
    try:
        os.killpg(process.pid, 9)  # what lost its parent is still in the session's group
    except (ProcessLookupError, PermissionError):
        pass


def _signal(process: psutil.Process, how: Callable[[psutil.Process], None]) -> None:
    try:
        how(process)
    except psutil.Error:
        pass  # it is gone already


_CODE = re.compile(r"(?:status|code|HTTP|error|failed to upload)[ :=]*([45]\d\d)\b")
_LISTED = 50


def troubles(directory: Path, key: str) -> dict[Path, Trouble]:
    """The errors in wandb's own sync logs, by run (file and artifact failures stand nowhere else), without the key."""
    found: dict[Path, tuple[dict[str, None], set[int]]] = {}
    for path in sorted(directory.glob("wandb/logs/debug-sync*.log")):
        with path.open("rb") as stream:
            for line in stream:
                record = _error_record(line)
                if record is not None:
                    errors, codes = found.setdefault(Path(str(record.get("sync_path", ""))), ({}, set()))
                    _take(record, errors, codes, key)
    return {log: Trouble(tuple(errors), frozenset(codes)) for log, (errors, codes) in found.items()}


def _error_record(line: bytes) -> dict[str, object] | None:
    if b'"level":"ERROR' not in line:  # errors have levels of their own: ERROR+4 is fatal
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _take(record: Mapping[str, object], errors: dict[str, None], codes: set[int], key: str) -> None:
    text = without_key(" ".join(f"{record.get('msg', '')} {record.get('error', '')}".split()), key)[:500]
    status = record.get("status")
    if isinstance(status, int) and status >= 400:
        codes.add(status)
    codes.update(int(code) for code in _CODE.findall(text))
    if "context canceled" not in text and text != "api: HTTP error" and len(errors) < _LISTED:
        errors[text] = None
