from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher.processes import Launching


@pytest.fixture
def launching(tmp_path: Path) -> Iterator[Launching]:
    home = tmp_path / "home"
    home.mkdir()
    yield Launching(home, tmp_path / "spool")
    end_processes_of(tmp_path)


def end_processes_of(directory: Path) -> None:
    """End what a failed test left running: processes whose home lies in its directory."""
    mark = f"HOME={directory}/".encode()
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
