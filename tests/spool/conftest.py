from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery.fragments import Fragments, Templates

from wandb_spool.spool.queue import Spool


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Real runs, logged once; a test gets copies."""
    return Templates.log(tmp_path_factory.mktemp("templates"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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
