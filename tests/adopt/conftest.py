from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .trees import PROGRAMS, Tree, environment, settle


@pytest.fixture(scope="session")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs, logged once. Not to be written to."""
    base = tmp_path_factory.mktemp("logged")
    (base / "home").mkdir()
    words = [sys.executable, str(PROGRAMS), str(base / "runs")]
    (base / "runs").mkdir()
    environ = environment(base / "home", WANDB_MODE="offline", PYTHONPATH=str(PROGRAMS.parent))
    subprocess.run(words, env=environ, check=True, timeout=120)
    return base


@pytest.fixture
def tree(tmp_path: Path, logged: Path) -> Tree:
    """A copy of the runs. What their logs and links name elsewhere lies where it was logged."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(logged / "runs", tmp_path / "runs", symlinks=True)
    settle(tmp_path / "runs")
    return Tree(tmp_path / "runs", home, tmp_path / "spool")
