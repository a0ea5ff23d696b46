"""`adopt`: find, say what was found, ask about what is doubtful, bring in. The order matters: nothing moves unsaid."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from wandb_spool.output import complain, emit, table
from wandb_spool.spool.adopting import (
    AdoptedLaunch,
    Grown,
    Mode,
    Placement,
    adopt,
    fragment_name,
    make_launch,
    require_room,
    same_file_system,
)
from wandb_spool.spool.adoption_plan import Decision, Fate, Group, Plan, plan
from wandb_spool.spool.adoptions import read_adoptions
from wandb_spool.spool.errors import SpoolError, UsageError
from wandb_spool.spool.found_runs import FoundRun, Search, Verdict, examine, open_logs, search
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.spool.words import count, size

WORST = 12
_WORKERS = 4  # most of the time is spent waiting for the disk to confirm small writes


@dataclass
class Adopted:
    """What became of one run directory."""

    run: FoundRun
    entry: str | None = None
    state: State | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Adoptable:
    """What the server says of a run that bears a marker."""

    delivered: bool | None
    """None: it could not be asked."""
    told: str


@dataclass
class Work:
    """One call of `adopt`."""

    root: Path
    mode: Mode
    found: Search
    plan: Plan
    results: list[Adopted] = field(default_factory=list)
    checked: dict[str, Adoptable] = field(default_factory=dict)
    """What the server says of runs that bear a marker, by path."""

    @property
    def held(self) -> list[Group]:
        return [group for group in self.plan.groups if group.doubts]


def survey(directories: Sequence[Path], spool: Spool | None, root: Path, mode: Mode) -> Work:
    """Look at everything. Raises UsageError for a directory that isn't there, and where there is nothing to adopt."""
    for directory in directories:
        if not directory.is_dir():
            if directory.exists():
                raise UsageError("not a directory", path=directory, hint=f"`wandb-spool adopt {directory.parent}`")
            raise UsageError("no such directory", path=directory)
    found = search(directories)
    if not found.run_directories:
        raise UsageError(_nothing(directories, found))
    held = open_logs()
    runs = [examine(directory, held) for directory in found.run_directories]
    return Work(root, mode, found, plan(spool, runs, {} if spool is None else read_adoptions(spool)))


def _nothing(directories: Sequence[Path], found: Search) -> str:
    where = ", ".join(str(directory) for directory in directories)
    if found.spools:
        return f"{found.spools[0]} is a spool: its runs need no adopting"
    return f"no run directory (one with a .wandb log) below {where}"


# -- doing it ------------------------------------------------------------------------------------------------------


def bring_in(spool: Spool, work: Work, answer: Callable[[Group], str], progress: Callable[[int], None]) -> None:
    """Adopt what the plan wants, fragments of one run in their order; one failure does not stop the others."""
    launches = _Launches(spool)
    jobs = [(group, answer(group) if group.doubts else "continue") for group in work.plan.groups]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for results in pool.map(lambda job: _bring_group(spool, launches, job[0], job[1], work.mode), jobs):
            work.results += results
            progress(len(results))


def require(work: Work) -> None:
    """Raise UsageError for what can't be done as a whole, before anything is made."""
    wanted = work.plan.wanted
    elsewhere = [run for run in wanted if not same_file_system(run.path, work.root)]
    if work.mode is Mode.IN_PLACE and elsewhere:
        raise UsageError(
            f"--in-place renames run directories into the spool, and {count(len(elsewhere), 'run')} lie on another"
            f" file system ({elsewhere[0].path}); nothing was adopted",
            hint="--copy, or --move, which copies across file systems and then deletes",
        )
    copied = wanted if work.mode is Mode.COPY else elsewhere
    require_room(work.root, sum(run.size_bytes for run in copied))


class _Launches:
    """One launch for each directory in which wandb made runs; another one where a name comes twice."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._made: dict[Path, tuple[AdoptedLaunch, set[str]]] = {}
        self._lock = Lock()

    def of(self, run: FoundRun) -> AdoptedLaunch:
        with self._lock:
            name = fragment_name(run)
            known = self._made.get(run.source)
            if known is None or name in known[1]:
                known = make_launch(self._spool, run.source), set()
                self._made[run.source] = known
            known[1].add(name)
            return known[0]


def _bring_group(spool: Spool, launches: _Launches, group: Group, answer: str, mode: Mode) -> list[Adopted]:
    results: list[Adopted] = []
    predecessor = group.predecessor if answer != "separate" else None
    for number, run in enumerate(group.runs):
        own = f"{run.run_id}-{number + 1}" if answer == "separate" and (number or group.predecessor) else None
        hold = (group.doubtful or "several runs have this id") if answer == "hold" else None
        done = _bring_one(spool, launches, Placement(run, predecessor, hold, own), mode)
        results.append(done)
        if done.entry is not None and answer != "separate" and done.state is not State.VOID:
            predecessor = done.entry
    return results


def _bring_one(spool: Spool, launches: _Launches, placement: Placement, mode: Mode) -> Adopted:
    run = placement.run
    try:
        place = adopt(spool, launches.of(run), placement, mode)
    except Grown:
        return Adopted(run, failure="its log grew meanwhile: it is still written, and was left alone")
    except (SpoolError, OSError) as error:
        return Adopted(run, failure=str(error))
    return Adopted(run, place.name, place.state)


# -- saying it -----------------------------------------------------------------------------------------------------


def category(run: FoundRun, work: Work) -> str:
    """The line of the table in which a run stands."""
    if run.verdict in (Verdict.COMPLETE, Verdict.MENDED) and run.marked:
        said = work.checked.get(str(run.path))
        if said is None or said.delivered is not False:
            return "delivered already"
    return run.verdict.value


CATEGORIES = ("complete", "delivered already", "will be mended", "damaged", "lost")
_MEANING = {
    "complete": "all of it is here",
    "delivered already": "so their `.synced` markers say; the server is asked before anything is sent",
    "will be mended": "what `wandb sync` would skip or get wrong; all of it is delivered",
    "damaged": "a part is gone; the rest is delivered, and the receipt says what is missing",
    "lost": "nothing in it that could be delivered; kept as void, so that it is counted",
}


def report(work: Work) -> Iterator[str]:
    """The table, and below it the worst cases."""
    wanted, left = work.plan.wanted, work.plan.left
    sources = len({run.source for run in (*wanted, *(item.run for item in left))})
    yield f"{count(len(wanted) + len(left), 'run directory', 'run directories')} in {count(sources, 'folder')}"
    yield ""
    if work.checked:
        proven = sum(1 for said in work.checked.values() if said.delivered)
        yield f"{proven} of {count(len(work.checked), 'marked run')} are on the server with all their rows"
        yield ""
    rows = [_row(name, [run for run in wanted if category(run, work) == name]) for name in CATEGORIES]
    if wanted:
        yield from table(("", "runs", "rows", "bytes", ""), rows, right=frozenset({1, 2, 3}))
    for fate, number in sorted(Counter(item.fate for item in left).items(), key=lambda pair: pair[0].value):
        yield f"left alone: {number} {fate.value}"
    yield from _worst(work)


def _row(name: str, runs: Sequence[FoundRun]) -> tuple[str, ...]:
    rows, held = sum(run.rows for run in runs), sum(run.size_bytes for run in runs)
    return (name, str(len(runs)), str(rows), size(held), _MEANING[name] if runs else "")


def _worst(work: Work) -> Iterator[str]:
    lines = [*_lines(work)]
    if lines:
        yield ""
        yield from lines[:WORST]
    if len(lines) > WORST:
        yield f"and {len(lines) - WORST} more: --json lists them all"


def _lines(work: Work) -> Iterator[str]:
    """What a person should know before anything is pushed, the worst first."""
    order = {"lost": 0, "damaged": 1}
    for run in sorted(work.plan.wanted, key=lambda run: order.get(category(run, work), 9)):
        for problem in run.problems:
            if problem.lost:
                yield f"{category(run, work)}  {run.path}: {problem.what}"
    for marked, said in work.checked.items():
        if not said.delivered:
            yield f"marker  {marked}: {said.told}"
    for group in work.held:
        yield f"doubtful  {group.runs[0].run_id}: {group.doubtful}"
    for item in work.plan.left:
        if item.fate in (Fate.GREW, Fate.WRITING):
            yield f"left alone  {item.run.path}: {item.detail}"
    for path in work.found.unreadable:
        yield f"can't be read  {path}"
    for link in _foreign_links(work):
        yield f"not followed  {link} is a link to {os.path.realpath(link)}: name it to adopt what is there"
    for run in work.plan.wanted:
        if run.verdict is Verdict.MENDED:
            yield f"mended  {run.path}: {'; '.join(problem.what for problem in run.problems)}"


def _foreign_links(work: Work) -> list[Path]:
    """Links that lead neither into the spool nor to where runs were found anyway."""
    root = os.path.realpath(work.root)
    seen = {str(place) for run in work.found.run_directories for place in (run, *run.parents)}
    return [
        path
        for path in work.found.links
        if not Path(os.path.realpath(path)).is_relative_to(root) and os.path.realpath(path) not in seen
    ]


def outcome(work: Work, *, dry_run: bool) -> Iterator[str]:
    """The last lines: what was done, what became of theirs, the one next command."""
    yield ""
    if dry_run:
        would = f"{count(len(work.plan.wanted), 'run')} would be adopted into {work.root}"
        yield f"nothing was done: --dry-run. Without it {would}"
        return
    failed = [item for item in work.results if item.failure]
    adopted = len(work.results) - len(failed)
    if not work.results:
        yield f"nothing new: what was found is in {work.root} already, or was left alone as told above"
        return
    yield f"{adopted} adopted into {work.root} ({_theirs(work.mode)})"
    held = [item for item in work.results if item.state is State.HELD]
    if held:
        why = "because it is not certain how they belong together"
        yield f"{len(held)} of them are held, {why}: `wandb-spool ls --state held`"
    for item in failed[:WORST]:
        yield f"NOT adopted  {item.run.path}: {item.failure}"
    if failed:
        yield f"{len(failed)} not adopted, none of them is lost: mend that and run the same command again"
    elif adopted:
        yield "next: `wandb-spool sync` reads the server back and sends only what is missing"


def _theirs(mode: Mode) -> str:
    if mode is Mode.COPY:
        return "copied; nothing of yours was changed"
    return "moved; a link stands at each old place" if mode is Mode.IN_PLACE else "moved"


def as_json(work: Work, *, dry_run: bool) -> dict[str, Any]:
    """All of it, for programs."""
    results = {str(item.run.path): item for item in work.results}
    doubts = {str(run.path): group.doubtful for group in work.held for run in group.runs}
    runs = [_run_json(run, results.get(str(run.path)), doubts.get(str(run.path)), work) for run in work.plan.wanted]
    return {
        "spool": str(work.root),
        "mode": work.mode.value,
        "dry_run": dry_run,
        "counts": {name: sum(1 for run in work.plan.wanted if category(run, work) == name) for name in CATEGORIES},
        "runs": runs,
        "left_alone": [_left_json(item) for item in work.plan.left],
        "unreadable": [str(path) for path in work.found.unreadable],
        "links_not_followed": [str(path) for path in _foreign_links(work)],
    }


def _run_json(run: FoundRun, result: Adopted | None, doubt: str | None, work: Work) -> dict[str, Any]:
    said = work.checked.get(str(run.path))
    return {
        "path": str(run.path),
        "run_id": run.run_id,
        "entity": run.entity,
        "project": run.project,
        "category": category(run, work),
        "marked": run.marked,
        "server": said.told if said else None,
        "rows": run.rows,
        "size_bytes": run.size_bytes,
        "problems": [{"what": problem.what, "lost": problem.lost} for problem in run.problems],
        "doubt": doubt,
        "entry": result.entry if result else None,
        "state": result.state.value if result and result.state else None,
        "failure": result.failure if result else None,
    }


def _left_json(item: Decision) -> dict[str, Any]:
    return {"path": str(item.run.path), "run_id": item.run.run_id, "why": item.fate.value, "detail": item.detail}


def exit_code(work: Work) -> int:
    """0 when all that was found is in the spool, 3 when something was left alone, held or failed."""
    unfinished = any(item.fate in (Fate.WRITING, Fate.GREW) for item in work.plan.left)
    failed = any(item.failure or item.state is State.HELD for item in work.results)
    return 3 if unfinished or failed else 0


def ask(group: Group) -> str:
    """Ask a person about a doubtful group; without a terminal it is held."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "hold"
    complain(f"run {group.runs[0].run_id} has {len(group.runs)} directories: {group.doubtful}")
    for run in group.runs:
        complain(f"  {run.path}: steps {run.first_step} to {run.last_step}")
    while True:
        print(
            "[c] one run, each continues the one before · [s] runs of their own · [h] hold: ", end="", file=sys.stderr
        )
        sys.stderr.flush()
        word = sys.stdin.readline().strip().lower()
        for answer in ("continue", "separate", "hold"):
            if word and answer.startswith(word):
                return answer
        if not word:
            return "hold"


__all__ = ["Work", "as_json", "ask", "bring_in", "emit", "exit_code", "outcome", "report", "require", "survey"]
