"""Training programs under the hook: real processes, real wandb, a spool of the test's own, no launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb_spool.runner.hook import HOOK_DIR
from wandb_spool.spool import alive
from wandb_spool.spool.alive import Alive
from wandb_spool.spool.log import LogFacts, Row, facts, rows

# What programs use to find their wandb-core, the child that writes the log.
PRELUDE = """
import os, sys, time, signal
def core():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == os.getpid() and "wandb-core" in stat:
            if stat.rpartition(")")[2].split()[0] != "Z":
                return int(pid)
    raise LookupError("no wandb-core")
"""


@dataclass(frozen=True)
class Fragment:
    """What a fragment looks like from outside."""

    path: Path
    entry: dict[str, Any]

    @property
    def log(self) -> Path:
        return next(self.path.glob("run-*.wandb"))

    @property
    def facts(self) -> LogFacts:
        return facts(self.log)

    @property
    def rows(self) -> list[Row]:
        return list(rows(self.log))

    @property
    def alive(self) -> Alive:
        found = alive.read(self.path)
        assert found is not None, f"no sign of life in {self.path}"
        return found


@dataclass(frozen=True)
class Ended:
    exit_code: int
    out: str
    err: str

    @property
    def notices(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("wandb-spool: ")]


class Program:
    """Runs code as `wandb-spool run` would, with the environment set by hand."""

    def __init__(self, home: Path, spool: Path) -> None:
        self.home = home
        self.spool = spool
        self.launch = spool / "runs" / "202611" / "20261121T045000-n1-0a1b2c3d"
        (self.launch / "data").mkdir(parents=True)
        (spool / "queue" / "open").mkdir(parents=True)
        self.environ: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "SLURM", "PYTHONPATH", "XDG"))}
        return {
            **kept,
            "HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(HOOK_DIR),
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self.launch),
            "WANDB_DATA_DIR": str(self.launch / "data"),
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.5",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SPOOL_DIR": str(self.spool),
            "WANDB_SPOOL_LAUNCH": str(self.launch),
            "WANDB_SPOOL_ENTRY_DEFAULTS": json.dumps({"command": "python train.py", "base_url": None}),
            **self.environ,
        }

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        script = self.home / "train.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=self.environment(),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *arguments: str) -> Ended:
        process = self.start(code, *arguments)
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    def run_until(self, code: str, line: str, then: signal.Signals, after_s: float = 0.0) -> Ended:
        """Send a signal once the program has printed a line."""
        process = self.start(code)
        assert process.stdout is not None
        seen = ""
        while line not in seen:
            read = process.stdout.readline()
            assert read, seen + (process.stderr.read() if process.stderr else "")
            seen += read
        time.sleep(after_s)
        process.send_signal(then)
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, seen + out, err)

    def fragments(self) -> list[Fragment]:
        """In the order of their predecessors."""
        entries = [json.loads(path.read_text()) for path in (self.spool / "queue" / "open").glob("[!.]*.json")]
        found = [Fragment(self.spool / entry["path"], entry) for entry in entries]
        return sorted(found, key=lambda fragment: (_depth(fragment, found), fragment.path))

    def fragment(self) -> Fragment:
        (one,) = self.fragments()
        return one

    def wait_for_writers(self) -> None:
        """wandb-core writes a moment longer than its killed trainer lived."""
        for fragment in self.fragments():
            sizes = [-1]

            def quiet(fragment: Fragment = fragment, sizes: list[int] = sizes) -> bool:
                sizes.append(fragment.log.stat().st_size)
                time.sleep(0.3)
                return sizes[-1] == sizes[-2]

            wait_until(quiet)


def _depth(fragment: Fragment, among: list[Fragment]) -> int:
    by_name = {f"{one.entry['launch']}.{one.entry['fragment']}": one for one in among}
    depth, predecessor = 0, fragment.entry["predecessor"]
    while predecessor in by_name:
        depth, predecessor = depth + 1, by_name[predecessor].entry["predecessor"]
    return depth


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
