"""How a syncer speaks while it works, on stderr: bars on a terminal, lines in a log, JSON objects for programs.

A terminal or a pipe that goes away costs what would have been said, never the work.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from wandb_spool.output import complain
from wandb_spool.spool import clock
from wandb_spool.spool.states import State
from wandb_spool.spool.words import age, count, size
from wandb_spool.syncer.failures import Failure
from wandb_spool.syncer.meter import Moving, Phase

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE_S = 5.0
LONGEST_PAUSE_S = 60.0
"""Between two lines of one push; the first pauses are shorter, each twice the one before."""


class Speaker(Protocol):
    """What a syncer says, and where it is."""

    def tell(self, line: str) -> None: ...

    def show(self, moving: Moving) -> None: ...

    def close(self) -> None: ...


@contextmanager
def speaking(*, log_json: bool) -> Iterator[Speaker]:
    """The way of speaking that fits stderr."""
    speaker: Speaker
    if log_json:
        speaker = Lines(tell_json, lambda moving: say(json.dumps(progress_event(moving, time.time()))))
    elif sys.stderr is not None and sys.stderr.isatty():
        speaker = Bars()
    else:
        speaker = Lines(tell, lambda moving: tell(sentence(moving)))
    try:
        yield speaker
    finally:
        speaker.close()


class Lines:
    """One line for what happened, and one now and then while something takes long."""

    def __init__(
        self,
        tell: Callable[[str], None],
        say_where: Callable[[Moving], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tell = tell
        self._say_where = say_where
        self._now_s = now_s
        self._task: tuple[object, ...] = ()
        self._pause_s = FIRST_LINE_S
        self._last_s = 0.0

    def show(self, moving: Moving) -> None:
        now_s = self._now_s()
        task = (moving.phase, moving.runs, moving.where, moving.total_bytes)
        if task != self._task:
            self._task, self._pause_s, self._last_s = task, FIRST_LINE_S, now_s
        if moving.runs and now_s - self._last_s >= self._pause_s:
            self._last_s = now_s
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
            self._say_where(moving)

    def close(self) -> None:
        pass


class Bars:
    """A bar while something is on its way; lines scroll above it."""

    def __init__(self) -> None:
        self._shown: tuple[Progress, TaskID] | None = None

    def tell(self, line: str) -> None:
        if self._shown is None:
            tell(line)
        else:
            from wandb_spool.output import printable

            self._shown[0].console.print(
                f"wandb-spool: {printable(line)}", markup=False, highlight=False, soft_wrap=True
            )

    def show(self, moving: Moving) -> None:
        if not moving.runs:
            self.close()
            return
        progress, task = self._shown = self._shown or self._begin()
        known = moving.phase is Phase.PUSHING and moving.total_bytes
        progress.update(
            task,
            description=_work(moving),
            figures=figures(moving),
            total=moving.total_bytes if known else None,
            completed=int(moving.fraction * moving.total_bytes) if known else 0,
        )

    def close(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None

    def _begin(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
        progress = Progress(
            *columns, TextColumn("{task.fields[figures]}", markup=False), console=Console(stderr=True), transient=True
        )
        progress.start()
        return progress, progress.add_task("", total=None, figures="")


def tell(line: str) -> None:
    """One line on stderr, if anybody still listens."""
    try:
        if sys.stderr is not None:
            complain(line)
    except (OSError, ValueError):
        pass  # the reader of the log is gone; the work is not


def say(line: str) -> None:
    try:
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # as above


def tell_json(line: str) -> None:
    """The same as one JSON object a line."""
    say(json.dumps(event_of(line, time.time())))


def sentence(moving: Moving) -> str:
    """Where a pass is, as a line of a log."""
    parts = (_work(moving) + (f" to {moving.where}" if moving.phase is Phase.PUSHING else ""), figures(moving))
    return ": ".join(filter(None, parts))


def figures(moving: Moving) -> str:
    """How much of a push is done, how fast it goes, and when it will end."""
    if moving.phase is not Phase.PUSHING:
        return ""
    parts = [f"{size(moving.sent_bytes)} of about {size(moving.total_bytes)} ({moving.fraction:.0%})"]
    if moving.bytes_per_s is not None:
        parts.append(f"{size(int(moving.bytes_per_s))}/s")
    if moving.eta_s is not None:
        parts.append(f"about {age(moving.eta_s)} left")
    return ", ".join(parts)


def _work(moving: Moving) -> str:
    rows = f" ({count(moving.rows, 'row')})" if moving.rows else ""
    done = f", {moving.done_runs} of {moving.due_runs} done" if moving.due_runs > moving.runs else ""
    return f"{moving.phase} {count(moving.runs, 'run')}{rows}{done}"


def progress_event(moving: Moving, now_s: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "at": clock.iso(now_s),
        "level": "info",
        "event": sentence(moving),
        "phase": moving.phase.value,
        "destination": moving.where,
        "runs": moving.runs,
        "rows": moving.rows,
        "sent_bytes": moving.sent_bytes,
        "total_bytes": moving.total_bytes,
        "bytes_per_s": None if moving.bytes_per_s is None else round(moving.bytes_per_s),
        "eta_s": None if moving.eta_s is None else round(moving.eta_s),
        "done_runs": moving.done_runs,
        "due_runs": moving.due_runs,
        "done_rows": moving.done_rows,
    }


def event_of(line: str, now_s: float) -> dict[str, str]:
    """What a line of progress says, for programs; `event` is the line itself."""
    found = _OUTCOME.match(line)
    event = {"at": clock.iso(now_s), "level": "info", "event": line}
    if found is None:
        if _OUTAGE.search(line):
            event["level"] = "warning"
        return event
    event.update({name: text for name, text in found.groupdict().items() if text is not None})
    failure = next((item.value for item in Failure if found["rest"].startswith(f"{item}: ")), None)
    if failure is not None:
        event.update(failure=failure, level="error" if found["state"] == State.QUARANTINED.value else "warning")
    del event["rest"]
    return event


_OUTCOME = re.compile(
    rf"(?P<state>{'|'.join(state.value for state in State)}) "
    r"(?P<entry>\d{8}T\S+?)(?: → (?P<target>\S+))?: (?P<rest>.*)",
    re.DOTALL,
)
_OUTAGE = re.compile(rf": (?:{'|'.join(failure.value for failure in Failure)}): |pass failed|can't |^warning: ")
