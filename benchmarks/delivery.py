"""How long tiny runs take to be delivered and read back, next to one `wandb sync` process a run.

    python benchmarks/delivery.py [--runs 60] [--idle 10000]

Everything is on loopback: a rehearsal server in a process of its own, and the real `wandb sync`. `--idle N` measures
instead what passes over N delivered and N/10 deferred entries cost when there is nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wandb_spool.spool.configuration import Configuration
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.log import override_run, rewrite
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import open_entry
from wandb_spool.spool.remembering import RememberingSpool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
from wandb_spool.syncer.service import Options, sync_once

_PROGRAM = """
import wandb
run = wandb.init(project="bench", id="one", config={"lr": 0.1})
for step in range(20):
    run.log({"loss": 1 / (step + 1)})
run.finish()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--plain", type=int, default=10, help="runs that are synced one process each")
    parser.add_argument("--idle", type=int, default=0, metavar="N")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["WANDB_SPOOL_CACHE_DIR"] = str(root / "cache")
        template = log_one(root)
        spool = Spool.create(root / "spool")
        if asked.idle:
            idle(spool, template, asked.idle)
        else:
            compare(root, spool, template, asked.runs, asked.plain)
    return 0


def compare(root: Path, spool: Spool, template: Path, runs: int, plain: int) -> None:
    for number in range(runs):
        add(spool, template, f"run{number}")
    with served(root) as account:
        directories = [place_of(spool, f"run{number}") for number in range(min(plain, runs))]
        copies = [shutil.copytree(path, root / "plain" / path.name) for path in directories]
        began = time.perf_counter()
        for directory in copies:
            subprocess.run([sys.executable, "-m", "wandb", "sync", "-p", "plain", str(directory)],
                           env=account, capture_output=True, check=True)  # fmt: skip
        plain_s = (time.perf_counter() - began) / len(copies)
        began = time.perf_counter()
        result = sync_once(spool, Configuration(), account, Options())
        ours_s = (time.perf_counter() - began) / runs
    delivered = result.count(State.DELIVERED)
    print(f"{delivered} of {runs} runs delivered and read back: {ours_s:.3f} s each")
    print(f"one `wandb sync` process each, not read back: {plain_s:.3f} s each ({plain_s / ours_s:.1f} times as long)")


def idle(spool: Spool, template: Path, count: int) -> None:
    name = add(spool, template, "one")
    place = spool.find(name)
    assert place is not None
    entry = spool.read(place)
    place.path.unlink()
    now = time.time()
    for number in range(count + count // 10):
        delivered = number < count
        launch = f"20260101T000000-bench-{number:08x}"
        one = replace(
            entry,
            name=f"{launch}.{entry.fragment}",
            launch=launch,
            not_before=None if delivered else time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now + 3000)),
        )
        write(spool, one, State.DELIVERED if delivered else State.DEFERRED)
    passes = 5
    remembering = RememberingSpool.over(spool)
    swept_s = timed(remembering, Options())
    pass_s = sum(timed(remembering, Options(sweep=False)) for _ in range(passes)) / passes
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    entries = f"{count} delivered and {count // 10} deferred entries"
    print(f"the daemon's pass over {entries}: {pass_s * 1000:.0f} ms of processor time")
    print(f"its first pass, and one every ten minutes: {swept_s * 1000:.0f} ms")
    print(f"together {(pass_s / 30 + swept_s / 600) * 100:.2f} % of a core; {memory_mb:.0f} MB")


def timed(spool: Spool, options: Options) -> float:
    before = time.process_time()
    sync_once(spool, Configuration(), {}, options)
    return time.process_time() - before


def write(spool: Spool, entry: Entry, state: State) -> None:
    path = spool.paths.entry(state, entry.name, month="202601")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entry.as_json(), indent=1))
    spool.paths.launch(entry.launch).mkdir(parents=True)


def log_one(root: Path) -> Path:
    home = root / "home"
    home.mkdir()
    environ = {**clean(root), "WANDB_MODE": "offline", "WANDB_DIR": str(home), "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environ, cwd=home, check=True)
    return next((home / "wandb").glob("offline-run-*"))


def clean(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "HOME": str(root / "home"), "WANDB_ERROR_REPORTING": "false"}


def add(spool: Spool, template: Path, run_id: str) -> str:
    launch = Launch.create(spool, ["python", "train.py"])
    launch.free_reserve()
    directory = launch.paths.wandb / f"offline-run-20260101_000000-{run_id}"
    shutil.copytree(template / "files", directory / "files")
    rewrite(template / "run-one.wandb", directory / f"run-{run_id}.wandb", override_run(run_id=run_id))
    place = spool.add(open_entry(spool, launch, directory))
    return seal_fragment(spool, place, hook=False).name


def place_of(spool: Spool, run_id: str) -> Path:
    place = next(place for place in spool.scan().values() if place.name.endswith(f"-{run_id}"))
    return spool.read(place).run_directory(spool.root)


@contextmanager
def served(root: Path) -> Iterator[dict[str, str]]:
    """A rehearsal server in a process of its own; gives the environment of a client."""
    command = [sys.executable, "-m", "wandb_spool", "rehearse", "--data", str(root / "server")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean(root)) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline().strip().removeprefix("export ") for _ in range(2)]
        yield {**clean(root), **dict(line.partition("=")[::2] for line in lines)}
        server.terminate()


if __name__ == "__main__":
    sys.exit(main())
