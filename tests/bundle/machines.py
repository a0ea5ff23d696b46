"""Two machines in one: the cluster that has no way out, and the one behind the gap, under another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

OTHER_UID = 54321


@dataclass(frozen=True)
class Machine:
    """A home directory, a spool in it, and perhaps another user."""

    home: Path
    uid: int | None = None
    prefix: tuple[str, ...] = ()
    """What every command begins with, for instance `unshare -n`."""

    @property
    def root(self) -> Path:
        return self.home / "spool"

    def spool(self) -> Spool:
        return Spool.open(self.root)

    def run(
        self, *words: str, environ: Mapping[str, str] | None = None, stdin: bytes | None = None, code: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """`wandb-spool WORDS…` as a process of this machine; fails the test when it ends with another code."""
        command = [*self._as_user(), *self.prefix, sys.executable, "-m", "wandb_spool", *words]
        done = subprocess.run(
            command,
            env={**self.environment(), **(environ or {})},
            cwd=self.home,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"{words} ended with {done.returncode}:\n{done.stdout.decode()}\n{done.stderr.decode()}"
            )
        return done

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "XDG"))}
        own = {"HOME": str(self.home), "WANDB_SPOOL_DIR": str(self.root), "WANDB_SILENT": "true"}
        return {**kept, **own, "TMPDIR": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}

    def _as_user(self) -> Sequence[str]:
        return () if self.uid is None else as_user(self.uid)

    def states(self) -> dict[str, State]:
        return {name: place.state for name, place in self.spool().scan().items()}

    def entries(self, state: State) -> list[Entry]:
        spool = self.spool()
        return [spool.read(place) for place in sorted(spool.places(state), key=lambda place: place.name)]


_OPEN_UP = """
set -e
mkdir -p "$2/.python"
mount --bind "$1" "$2/.python"
mount -t tmpfs -o mode=755 tmpfs "$3"
mkdir -p "$1"
mount --bind "$2/.python" "$1"
shift 3
exec "$@"
"""
"""Within a mount namespace of its own: show an interpreter that lies in a closed home directory ($3), and only it."""


def as_user(uid: int) -> tuple[str, ...]:
    """What a command begins with to be run by another user, who can't look into our home directory."""
    change = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    closed = [path for path in Path(sys.base_prefix).parents if not path.stat().st_mode & 0o001]
    if not closed:
        return change
    return (
        "unshare",
        "-m",
        "sh",
        "-c",
        _OPEN_UP,
        "sh",
        sys.base_prefix,
        tempfile.gettempdir(),
        str(closed[-1]),
        *change,
    )


def can_change_user() -> str | None:
    """Why another user can't be taken here; None when it can."""
    if os.getuid() != 0:
        return "taking another user needs root"
    if shutil.which("setpriv") is None:
        return "there is no setpriv"
    program = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import wandb, wandb_spool']))"
    done = subprocess.run(
        [*as_user(OTHER_UID), sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "HOME": "/"},
        cwd="/",
    )
    return None if done.returncode == 0 else f"another user can't use this Python: {done.stderr.decode()[-200:]}"


def no_network() -> tuple[str, ...] | None:
    """How a command is run without any network; None where namespaces can't be made."""
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True)
    return ("unshare", "-n") if probe.returncode == 0 else None
