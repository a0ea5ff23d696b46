"""The same list of faults against plain `wandb sync`, wandb-osh and wandb-spool: what each says, and what has arrived.

    python benchmarks/peers.py --osh-python /path/to/venv/bin/python > table.md

wandb-osh is looked for in the environment of `--osh-python` (`pip install wandb-osh` in a throw-away environment);
without it its column says so. Every case starts from the same real runs, gets the same fault, and up to three tries:
what a person with a retry loop would give it. Everything runs on loopback against the rehearsal server, with wandb's
retries shortened equally for all three, because their defaults end in minutes to days.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psutil
from delivery.fragments import Fragments, Templates, scrubbed
from delivery.syncing import Syncing
from proof.arena import LIMITS

from wandb_spool.spool.configuration import Destination
from wandb_spool.spool.log import rows
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer.push import retries
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

TRIES = 3
PATIENCE_S = 25.0


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    name: str
    runs: Sequence[tuple[str, str]]
    """Shape and run id of each fragment, in the order in which they were logged."""
    faults: tuple[Fault, ...] = ()
    lasting: bool = False
    """Whether the fault is still there at the last try; else it is mended before it."""
    damage: Callable[[Path], None] | None = None
    """Done to each run directory when the training has ended (and was sealed, where there is a seal)."""
    log_damage: Callable[[Path], None] | None = None
    """Done to the first run's log before the seal: the training's own death."""
    reverse: bool = False
    kill: str | None = None


def _status(endpoint: str, status: int) -> tuple[Fault, ...]:
    return (Fault(FaultKind.STATUS, endpoint, status=status),)


def _overwrite(run: Path) -> None:
    (run.parents[3] / "model.bin").write_bytes(b"the next run's model")


def _drop_staging(run: Path) -> None:
    shutil.rmtree(run.parents[1] / "data" / "artifacts", ignore_errors=True)


def _tear(log: Path) -> None:
    os.truncate(log, log.stat().st_size * 6 // 10)


def _corrupt(log: Path) -> None:
    with log.open("r+b") as stream:
        stream.seek(log.stat().st_size // 2)
        stream.write(b"\xff" * 64)


ONE, TWO = (("thousand", "one"),), (("front", "chain"), ("rear", "chain"))
TEN = tuple(("thousand" if number == 0 else "tiny", f"run-{number}") for number in range(10))
RICH = (("rich", "rich"),)

CASES: tuple[Case, ...] = (
    Case("nothing goes wrong", ONE),
    Case("server down, up again at the last try", ONE, (Fault(FaultKind.REFUSE, "any"),)),
    Case("500 on file_stream, mended at the last try", ONE, _status("file_stream", 500)),
    Case("403 on the history", ONE, _status("file_stream", 403), lasting=True),
    Case("404 on files", RICH, _status("upload", 404), lasting=True),
    Case("server hangs, mended at the last try", ONE, (Fault(FaultKind.HANG, "file_stream"),)),
    Case("answers are lost (reset after storing)", ONE, (Fault(FaultKind.RESET_AFTER, "file_stream", nth=1, times=8),)),
    Case("sync killed in the middle", ONE, (Fault(FaultKind.SLOW, "file_stream", seconds=0.5),), kill="wandb"),
    Case(
        "wandb-core killed in the middle", ONE, (Fault(FaultKind.SLOW, "file_stream", seconds=0.5),), kill="wandb-core"
    ),
    Case("trainer killed (torn log)", ONE, log_damage=_tear),
    Case("one corrupt run among ten", TEN, log_damage=_corrupt),
    Case("saved file overwritten after the run", RICH, damage=_overwrite),
    Case("staged artifact bytes deleted before the sync", RICH, damage=_drop_staging),
    Case("restarted job, overlapping steps", TWO),
    Case("fragments pushed in the wrong order", TWO, reverse=True),
)


@dataclass
class Setting:
    """The runs of one case on disk, and the server."""

    directory: Path
    server: RehearsalServer
    spool: Spool
    syncing: Syncing
    runs: list[Path]

    def environment(self) -> dict[str, str]:
        home = self.directory / "home"
        return {**scrubbed(home, **self.server.environment()), **retries(LIMITS), "WANDB_DIR": str(home)}


@dataclass(frozen=True)
class Outcome:
    """What one tool said, and what was there."""

    says: str
    missing: int
    doubled: int
    moved: int
    wrong: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"{count} {name}" for name, count in vars(self).items() if name not in ("says", "seconds") and count]
        return f"{self.says}: {', '.join(parts) or 'all there'}"

    @property
    def liar(self) -> bool:
        return self.says.endswith("success") and bool(self.missing or self.doubled or self.moved or self.wrong)


# -- the three tools: each gets one try and says whether it succeeded ------------------------------------------------


def plain(setting: Setting, runs: Sequence[Path], kill: str | None, osh: str | None) -> str:
    """`wandb sync RUN…`, as a person types it."""
    return _watched([sys.executable, "-m", "wandb", "sync", *map(str, runs)], setting, kill)


def wandb_osh(setting: Setting, runs: Sequence[Path], kill: str | None, osh: str | None) -> str:
    """wandb-osh's own loop over its command directory, until it has taken every command; it ignores what sync says."""
    commands = setting.directory / "commands"
    commands.mkdir(exist_ok=True)
    for number, run in enumerate(runs):
        (commands / f"{number:02}.command").write_text(str(run))
    bin_directory = Path(osh or "").parent
    words = [
        str(bin_directory / "wandb-osh"),
        "--command-dir",
        str(commands),
        "--wait",
        "1",
        "--timeout",
        str(int(PATIENCE_S)),
    ]
    path = f"{bin_directory}{os.pathsep}{os.environ.get('PATH', '')}"
    return _watched(words, setting, kill, until=lambda: not any(commands.glob("*.command")), PATH=path)


def wandb_spool(setting: Setting, runs: Sequence[Path], kill: str | None, osh: str | None) -> str:
    """`wandb-spool sync --all`."""
    del runs
    words = setting.syncing.command("sync", "--all", "--patience", "1")
    setting.syncing.write_configuration()
    said = _watched(words, setting, kill)
    set_aside = any(place.state is not State.DELIVERED for place in setting.spool.scan().values())
    return "failure" if said == "success" and set_aside else said  # a pass with nothing to do says 0, `status` says why


TOOLS: dict[str, Callable[[Setting, Sequence[Path], str | None, str | None], str]] = {
    "wandb sync": plain,
    "wandb-osh": wandb_osh,
    "wandb-spool": wandb_spool,
}


def _watched(
    words: Sequence[str], setting: Setting, kill: str | None, until: Callable[[], bool] | None = None, **environ: str
) -> str:
    """Run a tool; *success* is exit 0 (or, for a loop, that it took its work), *hangs* when it had to be ended."""
    with (setting.directory / "said").open("ab") as said:
        process = subprocess.Popen(
            words, env={**setting.environment(), **environ}, cwd=setting.directory, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline and not _idle(process, until):
            if kill is not None and _shoot(process.pid, kill):
                kill = None
            time.sleep(0.05)
        taken = until is not None and _idle(process, until)
        hung = process.poll() is None and not taken
        _end(process)
    if hung:
        return "hangs"
    return "success" if taken or process.returncode == 0 else "failure"


def _idle(process: subprocess.Popen[bytes], until: Callable[[], bool] | None) -> bool:
    return until is not None and until() and not psutil.Process(process.pid).children()


def _shoot(pid: int, name: str) -> bool:
    """Kill the process of a push that bears this name, once it sends."""
    family = psutil.Process(pid)
    for process in [family, *family.children(recursive=True)]:
        try:
            core = any("wandb-core" in word for word in process.cmdline())
            sync = "sync" in process.cmdline() and "wandb" in process.cmdline()
            if (core if name == "wandb-core" else sync) and time.time() - process.create_time() > 0.9:
                process.kill()
                return True
        except psutil.Error:
            continue
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        pass
    process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.Error:
            pass
    process.wait(10)


# -- a case ----------------------------------------------------------------------------------------------------------


def play(case: Case, tool: str, directory: Path, templates: Templates, osh: str | None) -> Outcome:
    """One tool against one fault."""
    (directory / "home").mkdir(parents=True)
    spool = Spool.create(directory / "spool")
    with RehearsalServer(directory / "server") as server:
        destination = Destination("default")
        setting = Setting(directory, server, spool, Syncing(spool, server, directory / "home", LIMITS, destination), [])
        expected = _log(case, tool, setting, templates)
        server.set_faults(case.faults)
        runs = setting.runs[::-1] if case.reverse else setting.runs
        started, said = time.monotonic(), list[str]()
        for number in range(TRIES):
            if number == TRIES - 1 and not case.lasting:
                server.clear_faults()
            said.append(TOOLS[tool](setting, runs, case.kill if number == 0 else None, osh))
            if said[-1] == "success":
                break  # nobody tries again what has succeeded
        seconds = time.monotonic() - started
        server.clear_faults()
        hung = "hangs, then " if "hangs" in said[:-1] and said[-1] != "hangs" else ""
        return _compare(f"{hung}{said[-1]}", expected, server, seconds)


@dataclass(frozen=True)
class Expected:
    """What has to be on the server, by run id."""

    steps: dict[str, dict[int, object]]
    files: dict[str, bytes]
    artifacts: int


def _log(case: Case, tool: str, setting: Setting, templates: Templates) -> Expected:
    fragments = Fragments(setting.spool, templates)
    steps: dict[str, dict[int, object]] = {}
    files: dict[str, bytes] = {}
    for number, (shape, run_id) in enumerate(case.runs):
        name = fragments.add(shape, run_id, seal=False)
        run = fragments.entry(name).run_directory(setting.spool.root)
        (log,) = run.glob("*.wandb")
        if shape == "rich":
            original = run.parents[3] / "model.bin"
            files["model.bin"] = (run / "files" / "model.bin").read_bytes()
            original.write_bytes(files["model.bin"])
            (run / "files" / "model.bin").unlink()
            (run / "files" / "model.bin").symlink_to(original)  # what run.save does
        if case.log_damage is not None and number == 0:
            case.log_damage(log)
        held = {row.step: row.values.get("loss") for row in rows(log, salvage=True)}
        mine = steps.setdefault(run_id, {})
        first = min(held, default=0)
        for step in [step for step in mine if step >= first]:
            del mine[step]  # the restarted trajectory is the true one
        mine.update(held)
        if tool == "wandb-spool":
            seal_fragment(setting.spool, fragments.place(name), hook=True)
        setting.runs.append(run)
    for run in setting.runs:
        if case.damage is not None:
            case.damage(run)
    return Expected(steps, files, sum(1 for shape, _ in case.runs if shape == "rich"))


def _compare(says: str, expected: Expected, server: RehearsalServer, seconds: float) -> Outcome:
    report = server.report()
    held = {run_id: run for (_, _, run_id), run in report.runs.items()}
    missing = wrong = 0
    for run_id, wanted in expected.steps.items():
        run = held.get(run_id)
        there = {step: row.get("loss") for step, row in run.rows} if run else {}
        missing += sum(step not in there for step in wanted)
        wrong += sum(step in there and there[step] != value for step, value in wanted.items())
    stored = {name: file for run in held.values() for name, file in run.files.items()}
    for name, content in expected.files.items():
        if name not in stored:
            missing += 1
        elif stored[name].size_bytes != len(content):
            wrong += 1
    committed = sum(
        1 for run in held.values() if any(made.type == "model" and made.state == "COMMITTED" for made in run.artifacts)
    )
    missing += max(0, expected.artifacts - committed)
    doubled = sum(len(run.doubled) for run in held.values())
    moved = sum(1 for run_id, run in held.items() for step in run.steps if step not in expected.steps.get(run_id, {}))
    return Outcome(says, missing, doubled, moved, wrong, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osh-python", help="the Python of an environment with wandb-osh")
    parser.add_argument("--only", help="cases whose name contains this")
    wanted = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("WANDB", "XDG"))]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        os.environ["HOME"] = place
        os.environ["WANDB_SPOOL_CACHE_DIR"] = str(directory / "cache")
        (directory / "templates").mkdir()
        templates = Templates.log(directory / "templates")
        for line in _table(directory, templates, wanted.osh_python, wanted.only):
            print(line, flush=True)
    return 0


def _table(directory: Path, templates: Templates, osh: str | None, only: str | None) -> Iterator[str]:
    yield "| what goes wrong | " + " | ".join(TOOLS) + " |"
    yield "|---" * (len(TOOLS) + 1) + "|"
    liars = dict.fromkeys(TOOLS, 0)
    for number, case in enumerate(CASES):
        if only and only not in case.name:
            continue
        cells = []
        for tool in TOOLS:
            if tool == "wandb-osh" and not osh:
                cells.append("not tried")
                continue
            outcome = play(case, tool, directory / f"{number}-{tool.replace(' ', '-')}", templates, osh)
            liars[tool] += outcome.liar
            cells.append(f"**{outcome}**" if outcome.liar else str(outcome))
        yield f"| {case.name} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Success was reported although data was missing, doubled, moved or wrong: "
        + ", ".join(f"{tool} {count} ×" for tool, count in liars.items())
        + "."
    )


if __name__ == "__main__":
    sys.exit(main())
