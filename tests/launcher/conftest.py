from __future__ import annotations

from pathlib import Path

import pytest

from .processes import Launching


@pytest.fixture
def launching(tmp_path: Path) -> Launching:
    home = tmp_path / "home"
    home.mkdir()
    return Launching(home, tmp_path / "spool")
