"""The fixture `rehearsal`: a started rehearsal server with an empty data directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import RehearsalServer


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[RehearsalServer]:
    """A stand-in W&B service on loopback; what it keeps lies in `tmp_path / "rehearsal-data"`."""
    with RehearsalServer(tmp_path / "rehearsal-data") as server:
        yield server
