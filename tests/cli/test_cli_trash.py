"""Discarded runs can come back for 14 days; after that `prune` frees them, and the balance counts them for ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wandb_spool.spool import clock
from wandb_spool.spool.entry import Entry, Replay
from wandb_spool.spool.states import State

from .command_line import CommandLine

DAY_S = 86400.0


def thrown(command_line: CommandLine, name: str, days_ago: float) -> Entry:
    """Discard a run, so many days ago by what its entry says."""
    command_line("discard", "--yes", name)
    place = next(at for at in command_line.places(State.DISCARDED) if at.name.endswith(name))
    body = json.loads(place.path.read_text())
    now_s = clock.seconds(body["history"][-1]["at"])
    assert now_s is not None
    body["history"][-1]["at"] = clock.iso(now_s - days_ago * DAY_S)
    place.path.write_text(json.dumps(body))
    return command_line.spool.read(place)


def discarded_rows(command_line: CommandLine, run_id: str) -> dict[str, object]:
    (balance,) = [item for item in command_line.json("verify", "--remote") if item["run_id"] == run_id]
    assert balance["holds"], balance
    return {key: balance[key] for key in ("rows_logged", "discarded", "waiting")}


def test_discard_says_how_to_take_it_back(two_runs: CommandLine) -> None:
    assert "`wandb-spool discard --restore alpha` takes that back" in two_runs("discard", "--yes", "alpha").stdout


def test_bytes_stay_for_14_days_and_prune_frees_them_afterwards(two_runs: CommandLine) -> None:
    young, old = thrown(two_runs, "alpha", 13.9), thrown(two_runs, "beta", 14.1)
    root = two_runs.root
    told = two_runs("prune", "--dry-run").stdout
    assert "less than 14 days ago" in told and "would free the bytes of 1 fragment" in told
    assert old.run_directory(root).is_dir()
    assert "the bytes of 1 fragment" in two_runs("prune", "--dry-run").stdout
    assert "--yes" in two_runs("prune", code=2).stderr
    assert old.run_directory(root).is_dir()
    assert "freed" in two_runs("prune", "--yes").stdout
    assert young.run_directory(root).is_dir() and not old.run_directory(root).exists()
    assert "nothing was deleted" in two_runs("prune", "--yes").stdout


def test_discarded_run_counts_in_the_balance_also_after_its_bytes_are_gone(two_runs: CommandLine) -> None:
    expected = {"rows_logged": 20, "discarded": 20, "waiting": 0}
    thrown(two_runs, "beta", 15)
    assert discarded_rows(two_runs, "beta") == expected
    two_runs("prune", "--yes")
    assert discarded_rows(two_runs, "beta") == expected
    assert two_runs.counts() == {"incoming": 1, "discarded": 1}


def test_what_was_freed_cant_come_back_and_is_no_damage(two_runs: CommandLine) -> None:
    thrown(two_runs, "beta", 15)
    two_runs("prune", "--yes")
    assert "it can't come back; it was left alone" in two_runs("discard", "--restore", "beta", code=2).stderr
    assert "its bytes were freed" in two_runs("verify", "beta").stdout
    assert "its bytes were freed" in two_runs("show", "beta").stdout
    two_runs("ls"), two_runs("status"), two_runs("recover")
    assert two_runs.counts() == {"incoming": 1, "discarded": 1}


def test_prune_that_died_between_note_and_removal_is_finished_by_the_next(two_runs: CommandLine) -> None:
    entry = thrown(two_runs, "beta", 1)
    (place,) = two_runs.places(State.DISCARDED)
    owned = two_runs.spool.claim(place)
    note = {"at": "2026-01-01T00:00:00Z", "rows_logged": 20, "rows_kept": 20, "rows_lost": 0}
    two_runs.spool.rewrite(owned, replace(entry, extra={**entry.extra, "freed": note}))
    assert two_runs.spool.put_back(owned).state is State.DISCARDED
    two_runs("prune", "--yes")
    assert not entry.run_directory(two_runs.root).exists()
    assert discarded_rows(two_runs, "beta")["discarded"] == 20


@pytest.mark.parametrize("thrown_away", ["original", "replay"])
def test_bytes_that_another_entry_needs_stay(two_runs: CommandLine, thrown_away: str) -> None:
    place = two_runs.places()[0]
    entry = two_runs.spool.read(place)
    again = replace(entry, name=f"{entry.name}.r00000000", replay=Replay(project="elsewhere"))
    two_runs.spool.add(again, State.INCOMING)
    name = entry.name if thrown_away == "original" else again.name
    two_runs("discard", "--yes", name)
    (discarded,) = two_runs.places(State.DISCARDED)
    body = json.loads(discarded.path.read_text())
    body["history"][-1]["at"] = "2026-01-01T00:00:00Z"
    discarded.path.write_text(json.dumps(body))
    assert "another entry needs it" in two_runs("prune", "--yes").stdout
    assert entry.run_directory(two_runs.root).is_dir()


def test_sync_never_frees_anything(two_runs: CommandLine) -> None:
    entry = thrown(two_runs, "beta", 400)
    two_runs("hold", "alpha")
    two_runs("sync", WANDB_API_KEY="k" * 40, WANDB_BASE_URL="http://127.0.0.1:1")
    assert Path(entry.run_directory(two_runs.root)).is_dir()
