"""Directory trees as people have them, and the command on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.log import override_run, rewrite
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .programs import PLACES

PROGRAMS = Path(__file__).with_name("programs.py")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB", "SLURM", "XDG")) and "PROXY" not in name.upper()
    }
    own = {"HOME": str(home), "WANDB_SPOOL_CACHE_DIR": str(home / "cache"), "WANDB_SILENT": "true", "COLUMNS": "200"}
    return {**kept, **own, **more}


def settle(directory: Path) -> None:
    """As if nobody had written here for an hour."""
    then = time.time() - 3600
    for base, _, files in os.walk(directory):
        for name in files:
            if not os.path.islink(os.path.join(base, name)):
                os.utime(os.path.join(base, name), (then, then))


@dataclass
class Tree:
    """A tree of real run directories, a spool to be, and the command."""

    root: Path
    home: Path
    spool_root: Path

    def run_directory(self, name: str) -> Path:
        return next(path for path in self.root.rglob(f"*run-*-{name}") if path.is_dir())

    def log(self, name: str) -> Path:
        return next(self.run_directory(name).glob("*.wandb"))

    def only(self, *names: str) -> Tree:
        """Without the other runs."""
        for name, place in PLACES.items():
            if name not in names:
                shutil.rmtree(self.root / place, ignore_errors=True)
        return self

    def another(self, of: str, place: str, *, stamp: str, run_id: str | None = None) -> Path:
        """A copy of a run directory, elsewhere, by another name; with a `run_id` as another run."""
        source = self.run_directory(of)
        target = self.root / place / "wandb" / f"offline-run-{stamp}-{run_id or of}"
        shutil.copytree(source, target, symlinks=True)
        if run_id is not None:
            next(target.glob("*.wandb")).unlink()
            rewrite(self.log(of), target / f"run-{run_id}.wandb", override_run(run_id=run_id))
        settle(target)
        return target

    def adopt(
        self, *words: str, code: int | None = 0, where: Path | None = None, more: dict[str, str] | None = None
    ) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "wandb_spool",
                "adopt",
                str(where or self.root),
                "--spool",
                str(self.spool_root),
                *words,
            ],
            env={**environment(self.home), **(more or {})},
            cwd=self.home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def adopted(self, *words: str, code: int = 0, more: dict[str, str] | None = None) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.adopt("--json", *words, code=code, more=more))
        return body

    @property
    def spool(self) -> Spool:
        return Spool.open(self.spool_root)

    def entries(self, *states: State) -> dict[str, Entry]:
        """By run id; of several fragments of one run the last."""
        places = self.spool.scan(frozenset(states) if states else None).values()
        return {str(entry.run_id): entry for entry in sorted(map(self.spool.read, places), key=lambda e: e.created)}

    def counts(self) -> dict[str, int]:
        return {state.value: n for state in State if (n := sum(1 for _ in self.spool.places(state)))}

    def fingerprint(self) -> dict[str, tuple[object, ...]]:
        """Everything about their files that a copy must not change."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            target = os.readlink(path) if path.is_symlink() else None
            found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content, target)
        return found
