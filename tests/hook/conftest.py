from __future__ import annotations

from pathlib import Path

import pytest

from .programs import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    home = tmp_path / "home"
    home.mkdir()
    return Program(home, tmp_path / "spool")
