from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import RehearsalServer

from .fragments import Fragments, Templates
from .syncing import Syncing


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates.log(tmp_path_factory.mktemp("templates"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, also for what runs in this process."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_SPOOL_CACHE_DIR", str(home / "cache"))
    yield home


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.create(tmp_path / "spool")


@pytest.fixture
def fragments(spool: Spool, templates: Templates) -> Fragments:
    return Fragments(spool, templates)


@pytest.fixture
def syncing(spool: Spool, rehearsal: RehearsalServer, home: Path) -> Syncing:
    return Syncing(spool, rehearsal, home)
