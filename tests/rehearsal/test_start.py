"""Starting, stopping and steering a rehearsal server."""

from __future__ import annotations

import subprocess
import sys

from wandb_spool.syncer.rehearsal import RehearsalServer


def test_importing_the_package_loads_neither_the_web_libraries_nor_wandb() -> None:
    heavy = "{'starlette', 'uvicorn', 'graphql', 'wandb'}"
    code = f"import sys, wandb_spool.syncer.rehearsal; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fresh_server_has_a_key_that_the_client_accepts_and_nothing_to_report(
    rehearsal: RehearsalServer,
) -> None:
    assert len(rehearsal.api_key) >= 40
    assert rehearsal.report().runs == {}
