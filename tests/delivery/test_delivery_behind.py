"""A fragment that is delivered behind its successor adds its rows, and undoes nothing that the successor said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import LineCounts

from .fragments import Fragments
from .syncing import Syncing, balance


def deliver_behind(syncing: Syncing, fragments: Fragments, first: str, second: str) -> tuple[str, str]:
    """`hold` and `release --skip` the first, deliver the second; the first's name and the second's."""
    names = fragments.add(first, "run"), fragments.add(second, "run")
    entry = fragments.entry(names[0])
    skipped = replace(entry, extra={**entry.extra, "skipped": True})
    fragments.spool.move(fragments.place(names[0]), State.HELD, skipped)
    assert syncing.once().exit_code == 0
    assert fragments.state(names[1]) == "delivered"
    fragments.spool.move(fragments.place(names[0]), State.INCOMING, entry)
    return names


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if not key.startswith("_")}


@pytest.mark.parametrize("counts", list(LineCounts), ids=lambda item: item.value)
def test_config_summary_name_and_end_stay_those_of_the_newest_fragment(
    syncing: Syncing, fragments: Fragments, counts: LineCounts
) -> None:
    syncing.server.set_behaviour(line_counts=counts)
    first, _ = deliver_behind(syncing, fragments, "front", "rear")
    before = syncing.server.report().run("run")
    assert before.config["shape"] == "rear" and before.summary["loss"] == 179.5
    assert syncing.until_done().exit_code == 0
    assert fragments.state(first) == "delivered"
    after = syncing.server.report().run("run")
    assert after.config["shape"] == "rear"
    assert (after.config, _plain(after.summary)) == (before.config, _plain(before.summary))
    assert (after.display_name, after.state, after.exit_code) == ("the rear", "finished", 0)
    assert set(after.files) == set(before.files)
    assert sorted(syncing.values("run")) == list(range(180))
    assert [item.holds for item in balance(syncing)] == [True]
