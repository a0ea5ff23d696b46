"""Sealed fragments and a syncer, as the tests of delivery have them; several servers with several accounts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery.conftest import fragments, home, spool, syncing, templates

from wandb_spool.syncer.rehearsal import Account, RehearsalServer

__all__ = ["fragments", "home", "spool", "syncing", "templates"]


@pytest.fixture
def ada() -> Account:
    return Account(secrets.token_hex(20), "ada", ("lab",))


@pytest.fixture
def bob() -> Account:
    return Account(secrets.token_hex(20), "bob")


@pytest.fixture
def cloud(tmp_path: Path, ada: Account, bob: Account) -> Iterator[RehearsalServer]:
    """Stands for W&B's own cloud: two people's accounts on one server."""
    with RehearsalServer(tmp_path / "cloud", accounts=[ada, bob]) as server:
        yield server


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[RehearsalServer]:
    """A self-hosted server, whose only account is its own."""
    with RehearsalServer(tmp_path / "hosted") as server:
        yield server
