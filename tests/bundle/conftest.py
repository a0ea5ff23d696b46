from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fabric import Fabric
from .machines import Machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_SPOOL_CACHE_DIR", str(home / "cache"))
    return home


@pytest.fixture
def common_ground() -> Iterator[Path]:
    """A directory that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="wandb-spool-gap-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cluster(tmp_path: Path) -> Machine:
    home = tmp_path / "cluster"
    home.mkdir()
    return Machine(home)


@pytest.fixture
def beyond(tmp_path: Path) -> Machine:
    """The machine behind the gap."""
    home = tmp_path / "beyond"
    home.mkdir()
    return Machine(home)


@pytest.fixture
def fabric(cluster: Machine) -> Fabric:
    return Fabric.in_new_spool(cluster.root)
