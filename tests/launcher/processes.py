"""A launcher as a real process, with a home directory of its own and no network needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State

T = TypeVar("T")


@dataclass
class Launching:
    """Runs `wandb-spool run` in a directory of a test's own."""

    home: Path
    spool: Path
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        return [sys.executable, "-m", "wandb_spool", "run", "--spool", str(self.spool), *options, "--", *command]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "XDG"))}
        return {**kept, "HOME": str(self.home), "PYTHONUNBUFFERED": "1", **self.environ, **more}

    def run(self, *command: str, options: Sequence[str] = (), **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command, options=options),
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *command: str, options: Sequence[str] = (), **more: str) -> subprocess.Popen[str]:
        """In a process group of its own, as a shell starts a job."""
        return subprocess.Popen(
            self.command(*command, options=options),
            env=self.environment(**more),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def entries(self, state: State) -> list[Place]:
        return sorted(Spool.open(self.spool).places(state), key=lambda place: place.name)

    def launches(self) -> list[Path]:
        return sorted(self.spool.glob("runs/*/*"))


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                text = (process / "stat").read_text()
            except OSError:
                continue
            if int(text.rpartition(")")[2].split()[1]) == pid:
                found.append(int(process.name))
    return found
