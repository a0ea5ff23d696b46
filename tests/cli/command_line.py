"""`wandb-spool` as a real process, on a spool of a test's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb_spool.cli import answer
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State

# Commands that start nothing and keep nothing in their process.
WITHIN = frozenset({"status", "ls", "show", "hold", "release", "discard", "recover", "verify", "init"})


@dataclass
class CommandLine:
    home: Path
    root: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "XDG"))}
        return {**kept, "HOME": str(self.home), "WANDB_SPOOL_DIR": str(self.root), "COLUMNS": "200", **more}

    def __call__(self, *words: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        within = words[0] in WITHIN and "--help" not in words
        done = self._answer(words, more) if within else self._process(words, more)
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def _process(self, words: tuple[str, ...], more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wandb_spool", *words],
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def _answer(self, words: tuple[str, ...], more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """The same in this process, which saves its start."""
        encoding = more.get("PYTHONIOENCODING", "utf-8")
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2))
        environ, directory, stdin = dict(os.environ), os.getcwd(), sys.stdin
        try:
            os.environ.clear()
            os.environ.update(self.environment(**more))
            os.chdir(self.home)
            sys.stdin = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = answer(words)
        finally:
            os.environ.clear()
            os.environ.update(environ)
            os.chdir(directory)
            sys.stdin = stdin
        shown = [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]
        return subprocess.CompletedProcess(words, code, *shown)

    def json(self, *words: str, code: int = 0, **more: str) -> Any:
        return json.loads(self(*words, "--json", code=code, **more).stdout)

    @property
    def spool(self) -> Spool:
        return Spool.open(self.root)

    def counts(self) -> dict[str, int]:
        """Only the states that hold something."""
        return {state: n for state, n in self.json("status", code=0)["counts"].items() if n}

    def places(self, state: State = State.INCOMING) -> list[Place]:
        return sorted(self.spool.places(state), key=lambda place: place.name)
