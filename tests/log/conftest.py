"""Real logs, made once by the real wandb client in a process of its own, with everything in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("programs.py")
FINISHING = ["small", "values", "calls", "described", "large", "many_files"]


@pytest.fixture(scope="session")
def run_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run programs of `programs.py`; gives the directory that their runs lie in."""
    home = tmp_path_factory.mktemp("logs")

    def run(*names: str) -> Path:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment |= {
            "HOME": str(home),
            "WANDB_DIR": str(home),
            "WANDB_DATA_DIR": str(home / "data"),
            "WANDB_CACHE_DIR": str(home / "cache"),
            "WANDB_CONFIG_DIR": str(home / "config"),
            "WANDB_MODE": "offline",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.5",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(PROGRAMS), *names],
            env=environment,
            cwd=home,
            check=False,
            timeout=120,
        )
        assert done.returncode in (0, -signal.SIGKILL)
        return home / "wandb"

    return run


@pytest.fixture(scope="session")
def real_logs(run_program: Callable[..., Path]) -> dict[str, Path]:
    """A log for every program, by its run's id."""
    run_program(*FINISHING)
    runs = run_program("killed")
    logs = {path.stem.removeprefix("run-"): path for path in runs.glob("offline-run-*/run-*.wandb")}
    _wait_until_still(logs["killed"])
    return logs


@pytest.fixture(scope="session")
def small_log(real_logs: dict[str, Path]) -> bytes:
    return real_logs["small"].read_bytes()


def _wait_until_still(log: Path) -> None:
    """wandb-core outlives its trainer by a moment."""
    size = -1
    while size != log.stat().st_size:
        size = log.stat().st_size
        time.sleep(0.5)
