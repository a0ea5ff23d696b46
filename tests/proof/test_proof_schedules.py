"""Faults as data: a number names a whole attack, and every attack ends with everything delivered once, in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery.fragments import Templates

from .schedules import attack

SEEDS = (1, 2, 3, 7, 12)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_and_kills_end_with_everything_once_and_in_place(
    tmp_path: Path, templates: Templates, seed: int
) -> None:
    result = attack(seed, tmp_path / "arena", templates, training=seed == 1)
    assert result.clean, str(result)
    assert len(result.faults) >= 5 and result.kills, "an attack has at least five faults and one kill"
    assert result.verdict.lost == 0 or result.logged_for_certain, f"only a killed training may lose a row\n{result}"
    assert result.verdict.lost <= 400, f"no more than the last second\n{result}"
