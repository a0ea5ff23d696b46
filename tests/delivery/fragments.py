"""Sealed fragments at small cost: a real run's log under another id, sealed by the real seal.

Starting wandb takes more than a second, so each shape of `programs.py` is logged once a session by the real launcher; a
test gets copies. A copy's log is the real one, re-framed by `spool.log` with another run id and with artifact paths as
they are in its own launch directory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from wandb_spool.spool import clock
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.log import chain, move_artifacts, override_run, rewrite, rewrite_manifest_file
from wandb_spool.spool.manifest import MANIFEST_NAME
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.recover import open_entry
from wandb_spool.spool.seal import seal_fragment

PROGRAMS = Path(__file__).with_name("programs.py")
SHAPES = ("tiny", "thousand", "front", "rear", "third", "rich", "values")

_numbers = count(1)
_BEGAN_S = time.time() - 500


def scrubbed(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests matters."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB", "SLURM", "XDG")) and "PROXY" not in name.upper()
    }
    own = {
        "HOME": str(home),
        "WANDB_SPOOL_CACHE_DIR": str(home / "cache"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**kept, **own, **more}


def train(spool: Path, home: Path, *command: str, cwd: Path | None = None, code: int = 0, **more: str) -> None:
    """Run a command through the real launcher."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb_spool", "run", "--spool", str(spool), "--", *command],
        env=scrubbed(home, WANDB_SILENT="true", **more),
        cwd=cwd or home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr


@dataclass(frozen=True)
class Templates:
    """The real fragments that copies are made of."""

    spool: Spool
    entries: dict[str, Entry]

    @classmethod
    def log(cls, directory: Path) -> Templates:
        home = directory / "home"
        home.mkdir()
        root = directory / "spool"
        train(root, home, sys.executable, str(PROGRAMS), *SHAPES)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> Templates:
        """What was logged there before."""
        spool = Spool.open(directory / "spool")
        entries = [spool.read(place) for place in spool.scan().values()]
        assert len(entries) == len(SHAPES)
        return cls(spool, {str(entry.run_id): entry for entry in entries})


@dataclass
class Fragments:
    """Puts copies of the templates into one spool."""

    spool: Spool
    templates: Templates
    damage: Callable[[Path], None] | None = field(default=None, repr=False)
    """Called with the log of a copy before it is sealed."""

    def add(
        self,
        shape: str = "tiny",
        run_id: str | None = None,
        *,
        entity: str | None = None,
        project: str | None = None,
        base_url: str | None = None,
        seal: bool = True,
        damage: Callable[[Path], None] | None = None,
    ) -> str:
        """One more fragment, newer than those before; returns its entry's name."""
        number = next(_numbers)
        created_s = _BEGAN_S + number
        run_id = run_id or f"{shape}-{number}"
        launch = Launch.create(self.spool, ["python", "train.py"], now_s=created_s)
        launch.free_reserve()
        directory = self._copy(shape, launch, run_id, created_s, entity, project)
        if damage is not None:
            log = log_path(directory)
            assert log is not None
            damage(log)
        entry = open_entry(self.spool, launch, directory)
        place = self.spool.add(replace(entry, created=clock.iso(created_s), base_url=base_url, run_id=run_id))
        if seal:
            place = seal_fragment(self.spool, place, hook=True)
        return place.name

    def _copy(
        self, shape: str, launch: Launch, run_id: str, created_s: float, entity: str | None, project: str | None
    ) -> Path:
        template = self.templates.entries[shape]
        source = template.run_directory(self.templates.spool.root)
        stamp = clock.compact(created_s).replace("T", "_")
        directory = launch.paths.wandb / f"offline-run-{stamp}-{run_id}"
        shutil.copytree(source, directory, symlinks=True, ignore=shutil.ignore_patterns(MANIFEST_NAME, "*.wandb"))
        old = str(template.launch_directory(self.templates.spool.root))
        shutil.rmtree(launch.paths.staged)
        shutil.copytree(Path(old) / "data", launch.paths.staged)

        def place(path: str) -> str:
            return path.replace(old, str(launch.paths.root))

        def manifest_place(path: str) -> str:
            if path:
                rewrite_manifest_file(Path(place(path)), Path(place(path)), place)
            return place(path)

        log = log_path(source)
        assert log is not None
        transform = chain(
            override_run(run_id=run_id, entity=entity, project=project), move_artifacts(place, manifest_place)
        )
        rewrite(log, directory / f"run-{run_id}.wandb", transform)
        return directory

    def place(self, name: str) -> Place:
        found = self.spool.find(name)
        assert found is not None, f"{name} is in no directory of the queue"
        return found

    def entry(self, name: str) -> Entry:
        return self.spool.read(self.place(name))

    def state(self, name: str) -> str:
        return self.place(name).state.value
