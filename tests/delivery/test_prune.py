"""Prune deletes only what is proven to be elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

from wandb_spool.spool.pruning import candidates, prune
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .fragments import Fragments
from .syncing import Syncing, balance


def _as_if_delivered_elsewhere(spool: Spool, name: str, **changes: object) -> None:
    """The receipt as a server that is not on this machine would have given it."""
    place = spool.find(name)
    assert place is not None
    body = json.loads(place.path.read_text())
    body["receipt"] = {**body["receipt"], "loopback": False, **changes}
    place.path.write_text(json.dumps(body))


def test_only_what_was_read_back_row_by_row_elsewhere_goes_and_the_balance_still_holds(
    syncing: Syncing, fragments: Fragments
) -> None:
    spool = fragments.spool
    proven, counted, rehearsed = (fragments.add("rich") for _ in range(3))
    assert syncing.once().exit_code == 0
    fragments.add("tiny")
    _as_if_delivered_elsewhere(spool, proven)
    _as_if_delivered_elsewhere(spool, counted, level="counts")
    found = candidates(spool, older_than_s=0.0)
    assert [item.entry.name for item in found if item.kept is None] == [proven]
    launch = fragments.entry(proven).launch_directory(spool.root)
    assert prune(spool, found) > 5000
    assert not fragments.entry(proven).run_directory(spool.root).exists() and not (launch / "data").exists()
    assert list((launch / "pruned").iterdir()) and (launch / "launch.json").exists()
    assert all(fragments.entry(name).run_directory(spool.root).is_dir() for name in (counted, rehearsed))
    assert all(found.holds for found in balance(syncing))
    assert syncing.once().exit_code == 0


def test_a_fragment_stays_as_long_as_its_run_is_not_complete_or_its_time_has_not_come(
    syncing: Syncing, fragments: Fragments
) -> None:
    first = fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    _as_if_delivered_elsewhere(fragments.spool, first)
    (item,) = candidates(fragments.spool, older_than_s=3600.0)
    assert item.kept == "it was delivered too recently"
    second = fragments.add("rear", "run")
    (item,) = candidates(fragments.spool, older_than_s=0.0)
    assert item.kept == "an undelivered entry needs it"
    fragments.spool.move(fragments.place(second), State.HELD, replace(fragments.entry(second)))
    assert prune(fragments.spool, candidates(fragments.spool, older_than_s=0.0)) == 0


def test_a_restart_of_a_run_whose_first_fragment_was_pruned_moves_and_loses_no_row(
    syncing: Syncing, fragments: Fragments
) -> None:
    first = fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    done = syncing.run("prune", "--older-than", "0s", "--rehearsal", "--yes")
    assert done.returncode == 0 and "freed" in done.stdout, done.stderr
    assert not fragments.entry(first).run_directory(fragments.spool.root).exists()
    fragments.add("rear", "run")
    assert syncing.once().exit_code == 0
    assert sorted(syncing.values("run")) == list(range(180))
    assert syncing.server.report().run("run").once_and_in_place
    (found,) = balance(syncing)
    assert found.holds and found.foreign == 0, "the rows of the first fragment are known by its receipt"
