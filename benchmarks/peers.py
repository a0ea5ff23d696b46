"""The same list of faults against plain `wandb sync`, wandb-osh and wandb-spool: what each says, and what has arrived.

    python benchmarks/peers.py --osh-python /path/to/venv/bin/python --out docs/evidence/peers.md

wandb-osh is looked for in the environment of `--osh-python` (`pip install wandb-osh` in a throw-away environment);
without it its column says so. Every case starts from the same real runs, gets the same fault, and up to three tries:
what a person with a retry loop would give it. Trainings that die or whose disk is full are real ones: with
`WANDB_MODE=offline` for plain wandb and wandb-osh, as both ask for, and under `wandb-spool run`. Everything runs on
loopback against the rehearsal server, with wandb's retries shortened equally for all three, because their defaults end
in minutes to days. Filling a disk takes root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from checkout import TESTS, commit, machine, use_this_checkout

_SCRATCH = tempfile.mkdtemp(prefix="peers-")
use_this_checkout(Path(_SCRATCH) / "checkout")
sys.path.insert(0, TESTS)

import psutil  # noqa: E402
from delivery.fragments import Fragments, Templates, scrubbed  # noqa: E402
from delivery.syncing import Syncing  # noqa: E402
from mounts import fill  # noqa: E402
from proof.arena import LIMITS  # noqa: E402

from wandb_spool.spool.configuration import Destination  # noqa: E402
from wandb_spool.spool.log import rows  # noqa: E402
from wandb_spool.spool.queue import Spool  # noqa: E402
from wandb_spool.spool.seal import seal_fragment  # noqa: E402
from wandb_spool.spool.states import State  # noqa: E402
from wandb_spool.syncer.push import retries  # noqa: E402
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer  # noqa: E402

TRIES = 3
PATIENCE_S = 25.0
SMALL_DISK_MB = 32


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
    training: Training | None = None


@dataclass(frozen=True)
class Training:
    """A real training that logs for so long, and what happens to it meanwhile."""

    seconds: float
    killed_after_s: float | None = None
    """SIGKILL for the trainer, so long after its first row."""
    core_killed_after_s: float | None = None
    """SIGKILL for its wandb-core."""
    disk_full_s: tuple[float, float] | None = None
    """When its disk is filled to the last byte, and when there is room again."""


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
    Case("wandb-core of the sync killed", ONE, (Fault(FaultKind.SLOW, "file_stream", seconds=0.5),), kill="wandb-core"),
    Case("wandb-core of the training killed", (), training=Training(6.0, core_killed_after_s=3.0)),
    Case("trainer killed after 3 s", (), training=Training(30.0, killed_after_s=3.0)),
    Case("trainer killed after 20 s", (), training=Training(30.0, killed_after_s=20.0)),
    Case("disk full for 3 s during the training", (), training=Training(9.0, disk_full_s=(2.0, 5.0))),
    Case("torn log", ONE, log_damage=_tear),
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
    full = case.training is not None and case.training.disk_full_s is not None
    with _disk(directory / "disk", small=full) as disk, RehearsalServer(directory / "server") as server:
        spool = Spool.create(disk / "spool")
        destination = Destination("default")
        setting = Setting(directory, server, spool, Syncing(spool, server, directory / "home", LIMITS, destination), [])
        expected = _train(case.training, tool, setting) if case.training else _log(case, tool, setting, templates)
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
        before = "training dies, then " if expected.died else ""
        before += "hangs, then " if "hangs" in said[:-1] and said[-1] != "hangs" else ""
        return _compare(f"{before}{said[-1]}", expected, server, seconds)


@contextmanager
def _disk(directory: Path, *, small: bool) -> Iterator[Path]:
    """Where the runs lie; a small one can be filled (that takes root)."""
    directory.mkdir()
    if not small:
        yield directory
        return
    words = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", str(directory)]
    if subprocess.run(words, capture_output=True).returncode != 0:
        raise NotPlayedError("needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


class NotPlayedError(Exception):
    """This machine can't."""


TRAINER = """
import os, struct, sys, time, wandb
count = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
run = wandb.init(project="trained", id="trained")
step, until = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    run.log({"loss": step * 0.5}, step=step)
    os.write(count, struct.pack("<id", step, time.monotonic()))
    step += 1
    time.sleep(0.02)
run.finish()
"""


def _train(training: Training, tool: str, setting: Setting) -> Expected:
    """Train, and say which rows must arrive; those of a killed training's last second may, for nobody can save them."""
    disk = setting.spool.root.parent
    counted = setting.directory / "counted"
    words = [sys.executable, "-c", TRAINER, str(counted), str(training.seconds)]
    if tool == "wandb-spool":
        words = [sys.executable, "-m", "wandb_spool", "run", "--spool", str(setting.spool.root), "--", *words]
    environ = {**scrubbed(setting.directory / "home"), "WANDB_MODE": "offline", "WANDB_DIR": str(disk)}
    with (setting.directory / "trained").open("wb") as told:
        process = subprocess.Popen(words, env=environ, cwd=setting.directory, stdout=told, stderr=told)
        while not counted.exists() or not counted.stat().st_size:
            time.sleep(0.02)
        dead_s = _happen(training, process, disk)
        process.wait(120)
    died = dead_s is None and process.returncode != 0
    rows_at = list(struct.iter_unpack("<id", counted.read_bytes()))
    logged = {int(step): step * 0.5 for step, _ in rows_at}
    last = {int(step) for step, at_s in rows_at if dead_s is not None and at_s >= dead_s - 1.0}
    setting.runs += sorted(disk.glob("wandb/offline-run-*"))
    # The row in progress when it was killed was perhaps logged, and not counted yet.
    return Expected({"trained": logged}, {}, 0, frozenset({*last, len(logged)} if dead_s is not None else ()), died)


def _happen(training: Training, process: subprocess.Popen[bytes], disk: Path) -> float | None:
    """Let happen what is to happen to a training; when it was killed."""
    if training.disk_full_s is not None:
        full_s, free_s = training.disk_full_s
        time.sleep(full_s)
        ballast = fill(disk)
        time.sleep(free_s - full_s)
        ballast.unlink()
    after_s = training.killed_after_s or training.core_killed_after_s
    if after_s is None:
        return None
    time.sleep(after_s)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if training.killed_after_s is None:
        next(member for member in family if member.name() == "wandb-core").kill()
        return None
    trainer = next(member for member in family if member.cmdline()[1:2] == ["-c"] and "struct" in member.cmdline()[2])
    dead_s = time.monotonic()
    trainer.kill()
    return dead_s


@dataclass(frozen=True)
class Expected:
    """What has to be on the server, by run id."""

    steps: dict[str, dict[int, object]]
    files: dict[str, bytes]
    artifacts: int
    perhaps: frozenset[int] = frozenset()
    """Steps that may be missing."""
    died: bool = False
    """The training ended because logging failed."""


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
        missing += sum(step not in there for step in wanted.keys() - expected.perhaps)
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
    moved = sum(
        step not in expected.steps.get(run_id, {}) and step not in expected.perhaps
        for run_id, run in held.items()
        for step in run.steps
    )
    return Outcome(says, missing, doubled, moved, wrong, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osh-python", help="the Python of an environment with wandb-osh")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, help="write what is printed here as well")
    wanted = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("WANDB", "XDG"))]:
        del os.environ[name]
    directory = Path(_SCRATCH)
    os.environ["HOME"] = _SCRATCH
    os.environ["WANDB_SPOOL_CACHE_DIR"] = str(directory / "cache")
    (directory / "templates").mkdir()
    lines = []
    try:
        templates = Templates.log(directory / "templates")
        for line in chain(_heading(wanted.osh_python), _table(directory, templates, wanted.osh_python, wanted.only)):
            lines.append(line)
            print(line, flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text("\n".join([*lines, ""]))
    return 0


def _heading(osh: str | None) -> Iterator[str]:
    version = "not there"
    if osh:
        code = "from importlib.metadata import version as v; print(f\"{v('wandb-osh')} with wandb {v('wandb')}\")"
        version = subprocess.run([osh, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    yield "# The same faults against three tools"
    yield ""
    yield f"`python benchmarks/peers.py --osh-python …`, {time.strftime('%Y-%m-%d', time.gmtime())}."
    yield f"Machine: {machine()}; wandb-osh {version}. Commit: {commit()}."
    yield "A cell says what the tool said, and what was missing, doubled, moved or wrong on the server then."
    yield f"Each got up to {TRIES} tries; **bold**: it reported success although data was not there as it was logged."
    yield "A killed training may miss the rows of its last second."
    yield ""


def _table(directory: Path, templates: Templates, osh: str | None, only: str | None) -> Iterator[str]:
    yield "| fault | " + " | ".join(TOOLS) + " |"
    yield "|---" * (len(TOOLS) + 1) + "|"
    liars = dict.fromkeys(TOOLS, 0)
    for number, case in enumerate(CASES):
        if only and only not in case.name:
            continue

        def one(tool: str, case: Case = case, number: int = number) -> Outcome | None:
            if tool == "wandb-osh" and not osh:
                return None
            try:
                return play(case, tool, directory / f"{number}-{tool.replace(' ', '-')}", templates, osh)
            except NotPlayedError:
                return None

        with ThreadPoolExecutor(len(TOOLS)) as pool:
            outcomes = dict(zip(TOOLS, pool.map(one, TOOLS), strict=True))
        for tool, outcome in outcomes.items():
            liars[tool] += outcome is not None and outcome.liar
        cells = [
            "not tried" if outcome is None else f"**{outcome}**" if outcome.liar else str(outcome)
            for outcome in outcomes.values()
        ]
        yield f"| {case.name} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Success was reported although data was missing, doubled, moved or wrong: "
        + ", ".join(f"{tool} {count} ×" for tool, count in liars.items())
        + "."
    )


if __name__ == "__main__":
    sys.exit(main())
