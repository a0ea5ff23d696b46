from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery.fragments import Templates

from .arena import Arena


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Real runs, logged once; an attack gets copies."""
    return Templates.log(tmp_path_factory.mktemp("templates"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of the test's own, also for what runs in this process."""
    monkeypatch.setenv("HOME", str(tmp_path / "arena" / "home"))
    monkeypatch.setenv("WANDB_SPOOL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def arena(tmp_path: Path, templates: Templates) -> Iterator[Arena]:
    with Arena.open(tmp_path / "arena", templates) as arena:
        yield arena
