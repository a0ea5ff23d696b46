"""What a syncer costs the host it runs on, against the goals that are printed beside each figure.

    python benchmarks/operation.py event     # from an entry's arrival to the push, median of 20
    python benchmarks/operation.py status    # `status` and the daemon's readiness over 100 000 delivered entries
    python benchmarks/operation.py memory    # one million rows and a file of 2 GB
    python benchmarks/operation.py idle      # a daemon over 10 000 delivered and 1000 deferred entries

Everything is on loopback and in processes of their own; figures of a busy host say little, so its load is printed too.
Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from delivery import add, clean, log_one, served, write

from wandb_spool.spool import clock
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.log import LogWriter, read_records
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import open_entry
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer.concerns import queued_s

GOALS = {"event": 0.5, "status": 0.5, "ready": 5.0, "memory": 300.0, "idle_cpu": 0.2, "idle_memory": 80.0}
WAIT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["event", "status", "memory", "idle"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--file-mb", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long an idle daemon is watched")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["WANDB_SPOOL_CACHE_DIR"] = str(root / "cache")
        template = log_one(root)
        spool = Spool.create(root / "spool")
        print(f"load of this host: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        measured = {
            "event": lambda: event(root, spool, template, asked.events),
            "status": lambda: status(root, spool, template, asked.entries),
            "memory": lambda: memory(root, spool, template, asked.rows, asked.file_mb),
            "idle": lambda: idle(root, spool, template, asked.seconds),
        }[asked.what]()
    return 0 if measured else 1


def judged(name: str, figure: float, unit: str, what: str) -> bool:
    good = figure <= GOALS[name]
    print(f"{what}: {figure:.3g} {unit} (goal {GOALS[name]:g} {unit}{'' if good else ', MISSED'})")
    return good


def event(root: Path, spool: Spool, template: Path, count: int) -> bool:
    """The time between the move into `incoming` and the line that says that a push begins."""
    taken: list[float] = []
    with served(root) as account, daemon(root, spool, account) as lines:
        lines("watching ")
        for number in range(count):
            name = add(spool, template, f"run{number}")
            told_s = time.time() - time.monotonic() + lines("pushing ")
            lines("delivered ")
            taken.append(told_s - queued(spool, name))
    print(f"slowest {max(taken):.3f} s, fastest {min(taken):.3f} s")
    return judged("event", statistics.median(taken), "s", f"from an entry's arrival to its push, median of {count}")


def queued(spool: Spool, name: str) -> float:
    """When the entry was written into `incoming`: a little before its rename."""
    place = spool.find(name)
    assert place is not None
    found_s = queued_s(spool.read(place))
    assert found_s is not None
    return found_s


def status(root: Path, spool: Spool, template: Path, entries: int) -> bool:
    many(spool, template, entries, 0)
    environ = {**clean(root), "WANDB_SPOOL_CACHE_DIR": str(root / "cache")}
    words = [sys.executable, "-m", "wandb_spool", "status", "--spool", str(spool.root)]
    taken = []
    for _ in range(8):
        began = time.monotonic()
        subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - began)
    good = judged("status", statistics.median(taken[1:]), "s", f"`status` over {entries} delivered entries")
    began = time.monotonic()
    with daemon(root, spool, environ) as lines:
        ready_s = lines("watching ") - began
    return judged("ready", ready_s, "s", "daemon ready") and good


def memory(root: Path, spool: Spool, template: Path, rows: int, file_mb: int) -> bool:
    """The largest resident memory of `wandb-spool sync`, its `wandb sync` apart."""
    large(spool, template, rows, file_mb)
    with served(root) as account:
        words = [sys.executable, "-m", "wandb_spool", "sync", "--spool", str(spool.root)]
        process = psutil.Popen(
            words, env={**account, "WANDB_SPOOL_CACHE_DIR": str(root / "cache"), "TMPDIR": str(root)}
        )
        began, largest_kb = time.monotonic(), 0
        while process.poll() is None:
            largest_kb = max(largest_kb, peak_kb(process.pid))
            time.sleep(0.05)
        print(f"{rows} rows and {file_mb} MB: exit code {process.returncode} in {time.monotonic() - began:.0f} s")
    delivered = sum(1 for _ in spool.places(State.DELIVERED))
    good = judged("memory", largest_kb / 1024, "MB", "the syncer's memory at its largest")
    return good and delivered == 1 and process.returncode == 0


def idle(root: Path, spool: Spool, template: Path, seconds: float) -> bool:
    many(spool, template, 10_000, 1000)
    environ = {**clean(root), "WANDB_SPOOL_CACHE_DIR": str(root / "cache"), "WANDB_BASE_URL": "http://127.0.0.1:1"}
    with daemon(root, spool, environ) as lines:
        lines("watching ")
        process = psutil.Process(lines.pid)  # type: ignore[attr-defined]
        time.sleep(5)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        held_kb = peak_kb(process.pid)
    good = judged("idle_cpu", 100 * used_s / seconds, "%", f"of a core by an idle daemon over {seconds:.0f} s")
    return judged("idle_memory", held_kb / 1024, "MB", "its memory at its largest") and good


def peak_kb(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def many(spool: Spool, template: Path, delivered: int, deferred: int) -> None:
    """Entries as a spool has them after years; a launch directory belongs to the deferred ones only."""
    name = add(spool, template, "one")
    place = spool.find(name)
    assert place is not None
    entry = spool.read(place)
    place.path.unlink()
    later = clock.iso(time.time() + 3000)
    for number in range(delivered + deferred):
        launch = f"20260101T{number % 86400 // 3600:02}{number % 3600 // 60:02}{number % 60:02}-bench-{number:08x}"
        done = number < delivered
        one = replace(entry, name=f"{launch}.{entry.fragment}", launch=launch, not_before=None if done else later)
        write(spool, one, State.DELIVERED if done else State.DEFERRED)


def large(spool: Spool, template: Path, rows: int, file_mb: int) -> None:
    """A sealed run with so many rows, made of the records of a real one, and one large saved file."""
    launch = Launch.create(spool, ["python", "train.py"])
    launch.free_reserve()
    directory = launch.paths.wandb / "offline-run-20260101_000000-large"
    shutil.copytree(template / "files", directory / "files")
    with (directory / "files" / "weights.bin").open("wb") as stream:
        stream.truncate(file_mb * 1_000_000)
    write_log(template / "run-one.wandb", directory / "run-large.wandb", rows)
    place = spool.add(open_entry(spool, launch, directory))
    began = time.monotonic()
    sealed = seal_fragment(spool, place, hook=False)
    print(f"sealed in {time.monotonic() - began:.0f} s: {spool.read(sealed).size_bytes} bytes")


def write_log(source: Path, target: Path, rows: int) -> None:
    """The log of a real run with its last row repeated under new steps."""
    from wandb.proto import wandb_internal_pb2

    parse: Any = vars(wandb_internal_pb2)["Record"].FromString
    records = [parse(record.payload) for record in read_records(source)]
    row = [record for record in records if record.WhichOneof("record_type") == "history"][-1]
    items = {(item.key or ".".join(item.nested_key)): item for item in row.history.item}
    end = next(record for record in records if record.WhichOneof("record_type") == "exit")
    before = [record for record in records if record.WhichOneof("record_type") in ("header", "run", "environment")]
    with LogWriter(target) as log:
        for number, record in enumerate(before, 1):
            record.num = number
            if record.WhichOneof("record_type") == "run":
                record.run.run_id = "large"
            log.write(record.SerializeToString())
        for step in range(rows):
            row.num = len(before) + 1 + step
            row.history.step.num = step
            items["_step"].value_json = str(step)
            items["loss"].value_json = repr(1 / (step + 1))
            log.write(row.SerializeToString())
        end.num = len(before) + 1 + rows
        log.write(end.SerializeToString())


@contextmanager
def daemon(root: Path, spool: Spool, environ: dict[str, str]) -> Iterator[Callable[[str], float]]:
    """A daemon; what is yielded waits for a line that begins so, and gives its time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wandb_spool", "daemon", "--spool", str(spool.root)],
        env={**environ, "WANDB_SPOOL_CACHE_DIR": str(root / "cache"), "TMPDIR": str(root), "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait_for(beginning: str) -> float:
        assert process.stderr is not None
        for line in process.stderr:
            if line.removeprefix("wandb-spool: ").startswith(beginning):
                return time.monotonic()
        raise RuntimeError(f"the daemon ended before it said {beginning!r}")

    wait_for.pid = process.pid  # type: ignore[attr-defined]
    try:
        yield wait_for
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
