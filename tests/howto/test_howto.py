"""Every page of docs/howto does what it says: its commands are executed, and what was logged is delivered."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import WAITING, State
from wandb_spool.syncer.rehearsal import RehearsalServer

from .cluster import cluster, why_not
from .pages import HOWTO, Page, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_of_the_page_deliver_what_was_logged(page: Page, tmp_path: Path, rehearsal: RehearsalServer) -> None:
    missing = [module for module in page.modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'wandb-spool[frameworks]'")
    if page.slurm and why_not():
        pytest.skip(why_not() or "")
    work = tmp_path / "work"
    work.mkdir()
    for name, body in page.files.items():
        (work / name).write_text(body)
    with ExitStack() as stack:
        environ = environment(tmp_path, rehearsal)
        if page.slurm:
            environ |= stack.enter_context(cluster(tmp_path / "slurm"))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", page.script],
            cwd=work,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stdout
    spool = Spool.open(tmp_path / "scratch" / "spool")
    assert not [place for place in spool.scan().values() if place.state in WAITING], done.stdout
    assert any(True for _ in spool.places(State.DELIVERED))
    report = rehearsal.report()
    assert len(report.runs) == page.expected["runs"], done.stdout
    if "rows" in page.expected:
        assert sum(len(run.steps) for run in report.runs.values()) == page.expected["rows"], done.stdout


def environment(tmp_path: Path, rehearsal: RehearsalServer) -> dict[str, str]:
    """A person on a login node, with an account on a server and a scratch directory."""
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB", "SLURM", "XDG", "HF_", "JUPYTER")) and "PROXY" not in name.upper()
    }
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "HOME": str(tmp_path / "home"),
        "SCRATCH": str(tmp_path / "scratch"),
        "WANDB_SPOOL_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        **rehearsal.environment(),
    }


def test_every_page_is_in_the_list_and_every_link_leads_somewhere() -> None:
    listed = (HOWTO / "README.md").read_text()
    for page in pages():
        assert f"({page.name}.md)" in listed
        assert page.script.strip(), f"{page.name} executes nothing"
    for path in HOWTO.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
