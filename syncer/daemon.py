"""The syncer for ever: the same pass as `wandb-spool sync`, woken by events and a jittered timer.

Promise: the daemon outlives every failure of a pass; what it knows lies in the spool, so it can be killed at any point.
SIGTERM ends it within ten seconds: a running push is abandoned cleanly, leases are released, entries are put back.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wandb_spool.spool.clock import seconds
from wandb_spool.spool.configuration import Configuration
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.leases import LeaseWatch
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.remembering import RememberingSpool
from wandb_spool.spool.states import State

from .meter import Moving
from .service import Options, PassResult, sync_once
from .stopping import Stop
from .wake import Watcher

SCAN_S = 30.0
SHORTEST_WAIT_S = 0.05
AGAIN_S = 3600.0
SWEEP_S = 600.0
"""Between two looks at what only a crash can have left: entries in two directories, runs without an entry."""


@dataclass(frozen=True)
class DaemonOptions:
    """How the daemon lives."""

    scan_s: float = SCAN_S
    cpu_limit_s: float | None = None
    """Processor seconds after which the daemon starts itself anew: login nodes kill what uses more."""
    passes: int | None = None
    """End after so many passes (for tests and timers)."""


def run_daemon(
    spool: Spool,
    configuration: Callable[[], Configuration],
    environ: Mapping[str, str],
    options: Options,
    daemon: DaemonOptions,
    *,
    tell: Callable[[str], None],
    show: Callable[[Moving], None] = lambda moving: None,
    arguments: Sequence[str] | None = None,
    after_pass: Callable[[PassResult], None] = lambda result: None,
    stop: Stop | None = None,
) -> int:
    """Serve until told to stop; 0 after SIGTERM, 130 after SIGINT. `configuration` is asked before every pass."""
    stop = stop or Stop()
    watcher = Watcher([spool.paths.queue(State.INCOMING), spool.paths.queue(State.OPEN)])
    stop.listen(watcher.event.set)
    watcher.start()
    how = "polling" if watcher.polling else "file system events"
    tell(f"watching {spool.root} by {how}, scanning every {daemon.scan_s:.0f} s")
    _notify("READY=1")
    watch = LeaseWatch()
    remembering = RememberingSpool.over(spool)
    seldom = Seldom(tell)
    passes = 0
    swept_s = float("-inf")
    try:
        while True:
            watcher.event.clear()  # before the question: a signal between the two would be forgotten
            if stop():
                break
            sweep = time.monotonic() - swept_s >= SWEEP_S
            swept_s = time.monotonic() if sweep else swept_s
            this_time = replace(options, sweep=sweep)
            before = remembering
            try:
                remembering = _as_it_is_now(remembering)
            except SpoolError as error:
                result = PassResult.of_failure(error)
            else:
                result = _one_pass(remembering, configuration(), environ, this_time, watch, stop, tell, show)
            remembering.forget_unseen()
            _tell_troubles(result, seldom)
            after_pass(result)
            passes += 1
            if daemon.passes is not None and passes >= daemon.passes:
                break
            if result.broken or remembering is not before or not watcher.alive():
                watcher.stop()  # its directories may be others by now
                watcher.start()
            watcher.event.wait(_wait_s(result, daemon))
            if not stop():
                _renew_before_the_reaper(daemon, arguments, tell)
    finally:
        _notify("STOPPING=1")
        watcher.stop()
    return 130 if stop.signal == signal.SIGINT else 0


def _one_pass(
    spool: Spool,
    configuration: Configuration,
    environ: Mapping[str, str],
    options: Options,
    watch: LeaseWatch,
    stop: Stop,
    tell: Callable[[str], None],
    show: Callable[[Moving], None],
) -> PassResult:
    try:
        return sync_once(spool, configuration, environ, options, watch=watch, tell=tell, show=show, stopping=stop)
    except SpoolError as error:
        return PassResult.of_failure(error)  # the spool is away or full for a while: the next scan looks again
    except Exception as error:  # noqa: BLE001 - the daemon's outermost loop: one bad pass must not end the service
        tell(f"this pass failed, the next one tries again: {type(error).__name__}: {error}")
        return PassResult.of_failure(error)


def _as_it_is_now(spool: RememberingSpool) -> RememberingSpool:
    """The spool at this place, which may have gone away (an unmounted share) or be another one by now.

    Raises SpoolError when there is none: a pass would find nothing to do, and make directories below a mount point.
    """
    found = Spool.open(spool.root)
    return spool if found.spool_id == spool.spool_id else RememberingSpool.over(found)


def _tell_troubles(result: PassResult, seldom: Seldom) -> None:
    troubles = [*result.problems, *(f"{base_url}: {reason}" for base_url, reason in result.outages.items())]
    if result.broken is not None:
        troubles.append(result.broken)
    seldom.tell(troubles)


class Seldom:
    """Tells what is wrong once, and again every hour as long as it lasts: a log must not fill with it."""

    def __init__(self, tell: Callable[[str], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now_s = now_s
        self._told_s: dict[str, float] = {}

    def tell(self, lines: Sequence[str]) -> None:
        """What is wrong now; what was wrong before and is not any more is news when it comes back."""
        now_s = self._now_s()
        self._told_s = {line: at_s for line, at_s in self._told_s.items() if line in lines and now_s - at_s < AGAIN_S}
        for line in lines:
            if line not in self._told_s:
                self._told_s[line] = now_s
                self._tell(line)


def _wait_s(result: PassResult, daemon: DaemonOptions) -> float:
    """Seconds until the next scan: jittered, and no later than the next not-before time."""
    wait = daemon.scan_s * random.uniform(0.8, 1.2)
    if result.broken or result.outages or not result.next_due:
        return wait
    due = seconds(result.next_due)
    until = wait if due is None else max(SHORTEST_WAIT_S, due - time.time())
    return min(wait, until)


def _renew_before_the_reaper(
    daemon: DaemonOptions, arguments: Sequence[str] | None, tell: Callable[[str], None]
) -> None:
    """Become a new process with the same work before a login node's reaper kills this one for its processor time."""
    if daemon.cpu_limit_s is None or arguments is None:
        return
    used = sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
    if used >= daemon.cpu_limit_s:
        tell(f"used {used:.0f} s of processor time: starting anew")
        _spawn_successor(arguments)


def _spawn_successor(arguments: Sequence[str]) -> None:
    # exec keeps the pid and with it the processor time, so a child takes over and this process ends.
    successor = subprocess.Popen([sys.executable, *arguments], start_new_session=True)
    _notify(f"MAINPID={successor.pid}")
    os._exit(0)


def _notify(state: str) -> None:
    """Tell systemd (Type=notify); nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError:
        pass
