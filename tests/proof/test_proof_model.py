"""Spool and syncer against a model that says where each fragment is: whatever people, crashes and servers do."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery.fragments import Templates
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import SpoolMachine

EXAMPLES, STEPS = 50, 50
LEAST_STEPS = 2000


def test_spool_and_syncer_do_what_the_model_says(
    templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SPOOL_CACHE_DIR", str(tmp_path / "cache"))
    SpoolMachine.templates, SpoolMachine.steps_taken = templates, 0
    run_state_machine_as_test(
        SpoolMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert SpoolMachine.steps_taken >= LEAST_STEPS
    print(f"{SpoolMachine.steps_taken} steps")
