from __future__ import annotations

import shutil
import subprocess
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


@pytest.fixture
def private_ca(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=rehearsal", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return certificate, key
