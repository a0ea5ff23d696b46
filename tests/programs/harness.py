"""Whole programs under the real `wandb-spool run`, in a world without a network, and what they left in the spool."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

GAP = Path(__file__).with_name("gap.py")
BIN = Path(sys.executable).parent


def need(*modules: str) -> None:
    """Skip where a framework is missing."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install 'wandb-spool[frameworks]')")


@functools.cache
def gap_is_possible() -> bool:
    try:
        done = subprocess.run([*_AS_ROOT, sys.executable, str(GAP), os.devnull, "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


_AS_ROOT = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]


@dataclass(frozen=True)
class Sealed:
    """One fragment that the launch left."""

    entry: Entry
    manifest: Manifest
    directory: Path

    @property
    def counts(self) -> tuple[int | None, int, int | None]:
        """Rows logged, kept, lost."""
        return self.manifest.rows_logged, self.manifest.rows_kept, self.manifest.rows_lost


@dataclass(frozen=True)
class Ended:
    """A program that ended, with what it tried to reach."""

    exit_code: int
    out: str
    err: str
    left: int
    loopback: int
    names: list[str]
    """What a name server was asked for."""


class World:
    """A home, a working directory and a spool of a test's own; no network."""

    def __init__(self, root: Path) -> None:
        self.home, self.work, self.spool = root / "home", root / "work", root / "spool"
        for directory in (self.home, self.work):
            directory.mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def environment(self, **more: str) -> dict[str, str]:
        dropped = ("WANDB", "SLURM", "XDG", "PYTHONPATH", "JUPYTER")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        own = {
            "HOME": str(self.home),
            "PATH": f"{BIN}:{kept.get('PATH', '/usr/bin:/bin')}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # two ranks on two slow cores
            "TOKENIZERS_PARALLELISM": "false",
            "XDG_CACHE_HOME": str(self.home / "cache"),
        }
        return {**kept, **own, **more}

    def run(self, *command: str, options: tuple[str, ...] = (), **more: str) -> Ended:
        """`wandb-spool run -- COMMAND` where there is nothing to connect to. Skips where no such place can be made."""
        return self.bare(
            sys.executable, "-m", "wandb_spool", "run", "--spool", str(self.spool), *options, "--", *command, **more
        )

    def bare(self, *command: str, **more: str) -> Ended:
        """A command without the launcher."""
        if not gap_is_possible():
            pytest.skip("no network namespace can be made here")
        numbers = self.home / "counters.json"
        done = subprocess.run(
            [*_AS_ROOT, sys.executable, str(GAP), str(numbers), *command],
            env=self.environment(**more),
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=240,
        )
        seen = json.loads(numbers.read_text())
        return Ended(done.returncode, done.stdout, done.stderr, **seen)

    def recover(self) -> str:
        words = [sys.executable, "-m", "wandb_spool", "recover", "--spool", str(self.spool)]
        return subprocess.run(words, env=self.environment(), capture_output=True, text=True, check=True).stdout

    def launches(self) -> list[Path]:
        return sorted(self.spool.glob("runs/*/*"))

    def sealed(self) -> list[Sealed]:
        """Every fragment, in the order of its rows and its name. None of them may be anything but due."""
        spool = Spool.open(self.spool)
        found = []
        for place in spool.scan().values():
            entry = spool.read(place)
            assert place.state is State.INCOMING, f"{place.name} is {place.state}: {entry.reason}"
            directory = entry.run_directory(spool.root)
            found.append(Sealed(entry, read_manifest(directory)[0], directory))
            assert links(directory) == []
        directories = [directory for launch in self.launches() for directory in (launch / "wandb").glob("*run-*")]
        assert len(found) == len({item.directory for item in found}) == len(directories)
        return sorted(found, key=lambda item: (item.manifest.name or "", item.manifest.rows_kept))


def links(directory: Path) -> list[Path]:
    """Whatever in a run directory is not a file of its own."""
    return [path for path in directory.rglob("*") if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)]


def whole(ended: Ended, *, exit_code: int = 0) -> None:
    """The program's own exit code, and nothing that it tried to reach."""
    assert ended.exit_code == exit_code, f"{ended.out}\n{ended.err}"
    assert ended.left == 0, f"{ended.left} attempts to leave this host\n{ended.err}"
    # torchrun asks for the name of the address that it is given; that is no business of ours.
    assert [name for name in ended.names if not name.endswith(".arpa") and name != socket.gethostname()] == []
