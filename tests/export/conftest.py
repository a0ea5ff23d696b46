from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

PROGRAM = """
import sys
import numpy as np
import wandb

run = wandb.init(project="export", id="rich", config={"lr": 0.1, "nested": {"depth": 2}, "layers": [16, 32]})
for step in range(30):
    row = {"loss": 1 / (step + 1.5), "epoch": step // 10, "name": f"row {step} ü", "ok": step % 2 == 0,
           "nested": {"x": step, "y": step + 0.5}, "mixed": step if step < 20 else f"text {step}",
           "number": step if step < 25 else step + 0.25, "list": [step, "a"], "large": 2**60 + step}
    if step == 3:
        row["nan"], row["infinite"] = float("nan"), float("-inf")
    if step == 7:
        row["image"] = wandb.Image(np.full((8, 8, 3), 90, dtype=np.uint8))
        row["histogram"] = wandb.Histogram([1, 2, 3])
    if step == 9:
        row["table"] = wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]])
    run.log(row)
print("a line on the console")
print("a complaint", file=sys.stderr)
open("saved.txt", "w").write("what was saved")
run.save("saved.txt", policy="now")
for version in ("first", "second"):
    model = wandb.Artifact("model", "model")
    with model.new_file("weights/layer one.bin", mode="w") as stream:
        stream.write(version)
    model.add_reference("https://example.invalid/elsewhere", name="elsewhere", checksum=False)
    run.log_artifact(model)
run.finish()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def rich_spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with one real run that logs a value of every kind."""
    home = tmp_path_factory.mktemp("rich")
    (home / "train.py").write_text(PROGRAM)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "XDG"))}
    words = ["run", "--spool", str(home / "spool"), "--", sys.executable, "train.py"]
    subprocess.run(
        [sys.executable, "-m", "wandb_spool", *words],
        cwd=home,
        env={**kept, "HOME": str(home), "WANDB_SILENT": "true"},
        check=True,
        capture_output=True,
    )
    return home / "spool"


@pytest.fixture
def rich_run(rich_spool: Path) -> Path:
    spool = Spool.open(rich_spool)
    entry = spool.read(next(iter(spool.places(State.INCOMING))))
    return entry.run_directory(rich_spool)
