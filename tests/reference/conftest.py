"""Every test here runs in an empty directory of its own, with W&B offline and all of its directories inside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import wandb

from wandb_spool.spool.log.facts import LogFacts, facts
from wandb_spool.spool.log.rows import Row, rows

COMMAND = (sys.executable, "-m", "wandb_spool.runner.reference")


@dataclass(frozen=True)
class Trained:
    """A finished run of the whole script in a process of its own."""

    directory: Path
    done: subprocess.CompletedProcess[str]

    @property
    def run_dir(self) -> Path:
        (run_dir,) = self.directory.glob("wandb/offline-run-*")
        return run_dir

    @property
    def staged(self) -> list[bytes]:
        """The content of every file that W&B staged for artifacts."""
        staging = self.directory / "wandb_data_dir" / "artifacts" / "staging"
        return [file.read_bytes() for file in staging.iterdir()]

    @property
    def log(self) -> LogFacts:
        (log,) = self.run_dir.glob("*.wandb")
        return facts(log)

    @property
    def rows(self) -> list[Row]:
        return log_rows(self.run_dir)


def log_rows(run_dir: Path) -> list[Row]:
    wandb.teardown()  # `finish` can return before the last rows are in the log; this waits for the writer's end
    (log,) = run_dir.glob("*.wandb")
    return list(rows(log))


def wandb_environment(directory: Path) -> dict[str, str]:
    places = {name: str(directory / name.lower()) for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    return {
        **places,
        "HOME": str(directory / "home"),
        "WANDB_DIR": str(directory),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


def clean_environment(directory: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**inherited, **wandb_environment(directory)}


def run_script(directory: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Trained:
    done = subprocess.run(
        [*COMMAND, *flags],
        cwd=directory,
        env={**clean_environment(directory), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return Trained(directory, done)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in wandb_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # spinning threads on busy cores make a test ten times slower
    wandb.teardown()  # W&B reads its environment once a process
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs on the embedded digits, model files outside the run's directory."""
    directory = tmp_path_factory.mktemp("trained")
    return run_script(directory, "--epochs", "2", "--out-dir", "models", "--name", "two epochs")
