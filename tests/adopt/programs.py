"""What people have on their disks before they adopt: run in a process of its own, `python programs.py DIR`.

Each run lies in a `wandb` folder of its own below DIR, in the places where Hydra, Lightning and people put them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import wandb

PLACES = {
    "plain": "project",
    "torn": "outputs/2026-01-02/10-11-12",
    "broken": "multirun/2026-01-02/10-11-12/0",
    "saved": "lightning_logs/version_0",
    "unsaved": "lightning_logs/version_1",
    "staged": "experiments/a",
    "unstaged": "experiments/b",
    "synced": "experiments/c",
    "short": "experiments/d",
    "empty": "experiments/e",
}


def made(root: Path, name: str, steps: range = range(20), **arguments: object) -> None:
    directory = root / PLACES.get(name, name)
    directory.mkdir(parents=True, exist_ok=True)
    os.chdir(directory)
    run = wandb.init(project="old", id=name, dir=str(directory), config={"shape": name}, **arguments)  # type: ignore[arg-type]
    if name in ("saved", "unsaved"):
        Path("weights.bin").write_bytes(os.urandom(3000))
        run.save("weights.bin", policy="end")
    if name in ("staged", "unstaged"):
        Path("model.bin").write_bytes(os.urandom(3000))
        artifact = wandb.Artifact(f"model-{name}", "model")
        artifact.add_file("model.bin")
        run.log_artifact(artifact)
    for step in steps:
        run.log({"loss": 1 / (step + 1), "text": "x" * 200}, step=step)
    run.finish()


def main(root: Path) -> None:
    for name in PLACES:
        made(root, name, range(400) if name == "broken" else range(20))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
