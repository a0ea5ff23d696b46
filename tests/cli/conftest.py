from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool

from .command_line import CommandLine

RUNS = """
import wandb
for name, steps in (("alpha", 10), ("beta", 20)):
    run = wandb.init(project="digits", id=name, name=f"the {name}", config={"lr": 0.1})
    for i in range(steps):
        run.log({"loss": 1 / (i + 1), "nested": {"a": i}})
    run.summary["best"] = 0.5
    run.finish()
"""


@pytest.fixture
def empty(tmp_path: Path) -> CommandLine:
    """A spool without a run."""
    home = tmp_path / "home"
    home.mkdir()
    Spool.create(tmp_path / "spool")
    return CommandLine(home, tmp_path / "spool")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with two real runs of one launch, sealed. Not to be written to."""
    base = tmp_path_factory.mktemp("trained")
    made = CommandLine(base, base / "spool")
    words = [sys.executable, "-m", "wandb_spool", "run", "-q", "--", sys.executable, "-c", RUNS]
    subprocess.run(words, env=made.environment(WANDB_SILENT="true"), cwd=base, check=True, timeout=120)
    return made.root


@pytest.fixture
def two_runs(empty: CommandLine, trained: Path) -> CommandLine:
    """The runs `alpha` (10 rows) and `beta` (20 rows), incoming."""
    shutil.rmtree(empty.root)
    shutil.copytree(trained, empty.root, symlinks=True)
    return empty
