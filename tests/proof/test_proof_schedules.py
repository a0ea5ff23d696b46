"""Faults as data: a number names a whole attack, and every attack ends with everything delivered once, in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery.fragments import Templates

from .schedules import attack

SEEDS = (1, 2, 3, 4, 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_and_kills_end_with_everything_once_and_in_place(
    tmp_path: Path, templates: Templates, seed: int
) -> None:
    result = attack(seed, tmp_path / "arena", templates, training=seed == 1)
    assert result.clean, str(result)
    assert result.hard, f"five faults struck and one kill\n{result}"
