"""Completion in a shell offers commands and options, without importing anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def complete(tmp_path: Path, words: str, position: int) -> list[str]:
    environ = {
        **os.environ,
        "HOME": str(tmp_path),
        "_WANDB_SPOOL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    program = Path(sys.executable).with_name("wandb-spool")
    done = subprocess.run([str(program)], env=environ, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_are_offered(tmp_path: Path) -> None:
    assert complete(tmp_path, "wandb-spool ad", 1) == ["adopt"]
    assert {"run", "sync", "status", "edit"} <= set(complete(tmp_path, "wandb-spool ", 1))


def test_options_are_offered(tmp_path: Path) -> None:
    assert complete(tmp_path, "wandb-spool adopt --in", 2) == ["--in-place"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_a_shell(tmp_path: Path, shell: str) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "SHELL": f"/bin/{shell}"}
    words = [sys.executable, "-m", "wandb_spool", "--install-completion", shell]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_WANDB_SPOOL_COMPLETE" in path.read_text() for path in written), written
