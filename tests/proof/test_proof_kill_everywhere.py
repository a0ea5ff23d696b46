"""Killed before any durable step, by SIGKILL, as a real process: recover, deliver, and the balance holds."""

from __future__ import annotations

import sys

from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .arena import Arena

TRAIN = """
import wandb
run = wandb.init(project="p", id="run-{number}")
for step in range(5):
    run.log({{"loss": step}}, step=step)
run.finish()
"""


def test_syncer_killed_before_every_durable_step_delivers_everything_once(arena: Arena) -> None:
    """Each kill meets a run of its own; the next pass, by another process, does the rest."""
    for step in range(80):
        name = arena.fragments.add("rear" if step % 2 else "tiny")
        done = arena.dying(["sync", "--spool", str(arena.spool.root), "--patience", "1", name], step)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stdout
    else:
        raise AssertionError("the pass never ended")
    assert len(arena.kills) > 15, "a pass has more steps than that"
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean and verdict.lost == 0, f"{verdict}\nkills: {arena.kills}"
    assert set(arena.states()) == {State.DELIVERED}


def test_launcher_killed_before_every_durable_step_loses_no_row(arena: Arena) -> None:
    """Before the command starts there is nothing to lose; after its end everything is in the log, and is sealed."""
    trained = 0
    for step in range(200):
        code = TRAIN.format(number=step)
        words = ["run", "--spool", str(arena.spool.root), "--", sys.executable, "-c", code]
        done = arena.dying(words, step)
        if done.returncode == 0:
            trained += 1
            break
        assert done.returncode == -9, done.stdout
        trained += any(arena.spool.root.glob(f"runs/*/*/wandb/*-run-{step}"))
    assert len(arena.kills) > 15 and trained > 5
    arena.settle()
    verdict = arena.judge()
    assert verdict.clean and verdict.lost == 0, f"{verdict}\nkills: {arena.kills}"
    assert (verdict.delivered, verdict.rows_logged) == (trained * 5, trained * 5)
    _all_sealed(arena.spool)


def _all_sealed(spool: Spool) -> None:
    for place in spool.scan().values():
        manifest, digest = read_manifest(spool.read(place).run_directory(spool.root))
        assert (manifest.rows_logged, manifest.rows_lost) == (5, 0)
        assert digest == spool.read(place).manifest_sha256
