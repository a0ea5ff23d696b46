from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool


@dataclass
class Operator:
    """A person on a login node with a home and a spool of their own."""

    home: Path
    spool: Spool

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WANDB", "SLURM", "XDG", "SSL_", "REQUESTS_", "NOTIFY"))
            and "PROXY" not in name.upper()
        }
        elsewhere = {"TMPDIR": str(self.home), "WANDB_SPOOL_CACHE_DIR": str(self.home / "cache")}
        return {**kept, **elsewhere, "HOME": str(self.home), "PYTHONUNBUFFERED": "1", **more}

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "wandb_spool", words[0], "--spool", str(self.spool.root), *words[1:]]

    def __call__(self, *words: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*words),
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def configure(self, text: str) -> Path:
        path = self.home / ".config" / "wandb-spool.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    home = tmp_path / "home"
    home.mkdir()
    return Operator(home, Spool.create(tmp_path / "spool"))
