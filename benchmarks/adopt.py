"""How long `adopt` takes for many small run directories, next to a plain copy of the same tree.

    python benchmarks/adopt.py [--runs 1000] [--dir DIR] [--mode copy|move|in-place]

One real run is logged; the others are its log under other ids, each in a `wandb` folder of its own, as Hydra makes
them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wandb_spool.spool.log import override_run, rewrite

_PROGRAM = """
import wandb
run = wandb.init(project="bench", id="one", config={"lr": 0.1})
for step in range(50):
    run.log({"loss": 1 / (step + 1)})
run.finish()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--dir", type=Path, help="a directory on the file system to be measured")
    parser.add_argument("--mode", default="copy", choices=("copy", "move", "in-place"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.dir) as name:
        root = Path(name)
        make_runs(root, asked.runs)
        copied_s = timed(lambda: shutil.copytree(root / "multirun", root / "plain", symlinks=True))
        first_s = timed(lambda: adopt(root, asked.mode))
        again_s = timed(lambda: adopt(root, asked.mode)) if asked.mode == "copy" else None
    print(f"{asked.runs} run directories, --{asked.mode}: {first_s:.1f} s ({1000 * first_s / asked.runs:.1f} ms each)")
    print(f"a plain copy of the tree, nothing made durable: {copied_s:.1f} s")
    if again_s is not None:
        print(f"the same command again, which adopts nothing: {again_s:.1f} s")
    return 0


def make_runs(root: Path, runs: int) -> None:
    environ = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(root), "WANDB_DIR": str(root)}
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environ, cwd=root, check=True)
    (template,) = (root / "wandb").glob("offline-run-*")
    (log,) = template.glob("*.wandb")
    for number in range(runs):
        stamp = f"20260101_{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}"
        directory = root / "multirun" / f"{number}" / "wandb" / f"offline-run-{stamp}-run{number}"
        shutil.copytree(template, directory, symlinks=True, ignore=shutil.ignore_patterns("*.wandb"))
        rewrite(log, directory / f"run-run{number}.wandb", override_run(run_id=f"run{number}"))


def adopt(root: Path, mode: str) -> None:
    words = [sys.executable, "-m", "wandb_spool", "adopt", f"--{mode}", "--spool", str(root / "spool")]
    subprocess.run([*words, str(root / "multirun")], check=True, stdout=subprocess.DEVNULL)


def timed(work: object) -> float:
    started = time.monotonic()
    assert callable(work)
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
