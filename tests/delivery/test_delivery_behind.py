"""A fragment that is delivered behind its successor adds its rows, and undoes nothing that the successor said."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from wandb_spool.spool.configuration import Destination
from wandb_spool.spool.log import override_run, rewrite
from wandb_spool.spool.states import State
from wandb_spool.syncer.deliver import Account
from wandb_spool.syncer.rehearsal import LineCounts
from wandb_spool.syncer.server import Server

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


def _on_the_server(syncing: Syncing, **values: Any) -> dict[str, Any]:
    """What a person does in the browser: change a run, or look at it."""
    query = """mutation UpsertBucket($name: String, $entity: String, $project: String, $displayName: String,
        $notes: String, $tags: [String!]) {
      upsertBucket(input: {name: $name, entityName: $entity, modelName: $project, displayName: $displayName,
        notes: $notes, tags: $tags}) { bucket { displayName notes tags } } }"""
    variables = {"name": "run", "entity": "rehearsal", "project": "delivery", **values}
    body = {"operationName": "UpsertBucket", "query": query, "variables": variables}
    key = syncing.server.api_key
    answer = requests.post(f"{syncing.server.base_url}/graphql", json=body, auth=("api", key), timeout=10)
    bucket: dict[str, Any] = answer.json()["data"]["upsertBucket"]["bucket"]
    return bucket


def test_what_a_person_renamed_tagged_and_noted_on_the_server_outlasts_the_next_fragment(
    syncing: Syncing, fragments: Fragments
) -> None:
    fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    persons = {"displayName": "my best run", "notes": "for the paper", "tags": ["keep"]}
    _on_the_server(syncing, **persons)
    name = fragments.add("rear", "run", damage=_called("the front"))
    assert syncing.until_done().exit_code == 0
    assert (fragments.state(name), fragments.entry(name).attempts) == ("delivered", 1)
    assert _on_the_server(syncing) == persons


def test_a_name_that_the_program_changed_is_the_runs_new_name(syncing: Syncing, fragments: Fragments) -> None:
    fragments.add("front", "run")
    assert syncing.once().exit_code == 0
    fragments.add("rear", "run")
    assert syncing.once().exit_code == 0
    assert syncing.server.report().run("run").display_name == "the rear"


def _called(name: str) -> Callable[[Path], None]:
    def change(log: Path) -> None:
        rewrite(log, log.with_suffix(".new"), override_run(display_name=name))
        log.with_suffix(".new").replace(log)

    return change


def test_no_account_shows_its_key(syncing: Syncing) -> None:
    key = "k" * 40
    server = Server("http://127.0.0.1:1", key)
    account = Account(Destination("default"), "http://127.0.0.1:1", key, server, None)
    told = io.StringIO()
    try:
        raise RuntimeError(f"{account} {account!r}")
    except RuntimeError:
        Console(file=told, width=500).print_exception(show_locals=False)
    assert key not in repr(account) and key not in repr(server)
    assert "Account(" in told.getvalue() and key not in told.getvalue()
