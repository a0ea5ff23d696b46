"""Every path of a spool, and the names that appear in them. Pure: touches nothing on disk."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import clock
from .identity import host_name
from .states import State

FORMAT = 1
LAUNCH_NAME = re.compile(r"^\d{8}T\d{6}-[A-Za-z0-9-]{1,32}-[0-9a-f]{8}$")
FRAGMENT_NAME = re.compile(r"^(?:offline-)?run-\d{8}_\d{6}-[\w.-]{1,128}$")
ENTRY_NAME = re.compile(r"^(?P<launch>[^.~/]+)\.(?P<fragment>(?:offline-)?run-[^~/]+?)(?P<replay>\.r[0-9a-f]{8})?$")


def original_name(name: str) -> str:
    """The name of a fragment's first entry, from the name of any of its entries (a replay's ends in a mark)."""
    match = ENTRY_NAME.match(name)
    return name if match is None else f"{match['launch']}.{match['fragment']}"


def run_ids(entry_name: str) -> tuple[str, ...]:
    """The run ids that an entry's name can stand for; which one it is, its body says.

    To the name of a run directory of which one of the same second is there already, wandb adds `-1`, `-2` and so on.
    """
    run_id = entry_name.partition(".")[2].removeprefix("offline-").split("-", 2)[-1]
    head, _, number = run_id.rpartition("-")
    return (run_id, head) if head and number.isdigit() else (run_id,)


def new_launch_name(now_s: float) -> str:
    """A name that never repeats: time, host, 32 random bits."""
    return f"{clock.compact(now_s)}-{host_name()}-{secrets.token_hex(4)}"


def launch_month(launch: str) -> str:
    return launch[:6]


def new_token() -> str:
    """The mark of one claimant in `queue/active`."""
    import os

    return f"{host_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def target_key(base_url: str, entity: str, project: str, run_id: str) -> str:
    """The file name that stands for a target run in `leases/`."""
    name = "\n".join((base_url.rstrip("/").lower(), entity, project, run_id))
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def safe_relative(text: str) -> PurePosixPath | None:
    """`text` as a relative path, or None if it could lead out: absolute, `..`, empty, control characters."""
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or any(ord(character) < 32 for character in text):
        return None
    return path


@dataclass(frozen=True)
class SpoolPaths:
    """Where everything lies below one root."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "spool.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    @property
    def repairs(self) -> Path:
        return self.root / "repairs"

    @property
    def edits(self) -> Path:
        return self.root / "edits"

    @property
    def adopted(self) -> Path:
        return self.root / "adopted"

    @property
    def receipts(self) -> Path:
        return self.root / "receipts"

    @property
    def syncers(self) -> Path:
        return self.root / "syncers"

    def queue(self, state: State) -> Path:
        return self.root / "queue" / state.value

    def launch(self, launch: str) -> Path:
        return self.runs / launch_month(launch) / launch

    def entry(self, state: State, name: str, *, token: str | None = None, month: str | None = None) -> Path:
        """`token` is required for `active`, `month` for `delivered`."""
        if state is State.ACTIVE:
            return self.queue(state) / f"{name}~{token}.json"
        if state is State.DELIVERED:
            return self.queue(state) / (month or "") / f"{name}.json"
        return self.queue(state) / f"{name}.json"

    def lease(self, key: str) -> Path:
        return self.leases / f"{key}.json"

    def edit(self, key: str) -> Path:
        return self.edits / f"{key}.json"


@dataclass(frozen=True)
class LaunchPaths:
    """Where everything of one launch lies."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "launch.json"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def markers(self) -> Path:
        return self.root / "hook"

    @property
    def wandb(self) -> Path:
        return self.root / "wandb"

    @property
    def staged(self) -> Path:
        return self.root / "data"

    def fragments(self) -> list[Path]:
        """Run directories that wandb made here, oldest name first."""
        if not self.wandb.is_dir():
            return []
        return sorted(
            path
            for path in self.wandb.iterdir()
            if FRAGMENT_NAME.match(path.name) and path.is_dir() and not path.is_symlink()
        )


def log_path(run_directory: Path) -> Path | None:
    """The `.wandb` log of a run directory; None if there is none."""
    logs = sorted(path for path in run_directory.glob("*.wandb") if path.is_file() and not path.is_symlink())
    return logs[0] if logs else None
