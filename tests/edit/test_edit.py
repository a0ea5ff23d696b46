"""What a person changes of a run before it is sent is what the server gets; the sealed bytes stay as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from delivery.fragments import Fragments
from delivery.syncing import Syncing, why

from wandb_spool.spool.edits import Edit, edit_key
from wandb_spool.spool.names import wrong_project, wrong_run_id, wrong_tag
from wandb_spool.syncer.rehearsal import DEFAULT_ENTITY
from wandb_spool.syncer.server import Server


def remote(syncing: Syncing, project: str, run_id: str, entity: str = DEFAULT_ENTITY) -> dict[str, Any]:
    """What W&B's own query says of the run."""
    server = Server(syncing.server.base_url, syncing.server.api_key)
    found = server.run(entity, project, run_id)
    server.close()
    assert found is not None
    return found.attributes


def test_edit_reaches_the_server_and_the_sealed_bytes_stay(fragments: Fragments, syncing: Syncing) -> None:
    name = fragments.add("rich", "run-1")
    before = {path: path.read_bytes() for path in syncing.spool.paths.runs.rglob("*") if path.is_file()}
    words = ["--name", "a better näme", "--project", "elsewhere", "--group", "g", "--job-type", "eval"]
    words += ["--notes", "why", "--add-tag", "b", "--add-tag", "c", "--remove-tag", "a"]
    assert syncing.run("edit", "run-1", *words).returncode == 0
    result = syncing.once()
    assert fragments.state(name) == "delivered", result.outcomes
    shown = remote(syncing, "elsewhere", "run-1")
    assert {**shown, "tags": sorted(shown["tags"])} == {
        "displayName": "a better näme", "tags": ["b", "c"], "group": "g", "jobType": "eval", "notes": "why",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before
    assert fragments.entry(name).project == "delivery"
    assert syncing.run("verify", name).returncode == 0


def test_edit_holds_for_all_fragments_of_a_run(fragments: Fragments, syncing: Syncing) -> None:
    fragments.add("front", "run-2")
    assert syncing.run("edit", "run-2", "--name", "one name", "--project", "moved").returncode == 0
    fragments.add("rear", "run-2")
    syncing.until_done()
    assert remote(syncing, "moved", "run-2")["displayName"] == "one name"
    assert sorted(syncing.steps("run-2")) == list(range(180))


def test_edits_add_up_and_can_be_reset(fragments: Fragments, syncing: Syncing) -> None:
    fragments.add("tiny", "run-3")
    syncing.run("edit", "run-3", "--add-tag", "x", "--notes", "n")
    syncing.run("edit", "run-3", "--add-tag", "y", "--remove-tag", "x")
    shown = json.loads(syncing.run("edit", "run-3", "--json").stdout)
    assert shown[0]["edit"] == {"notes": "n", "add_tags": ["y"], "remove_tags": ["x"]}
    assert list(syncing.spool.paths.edits.iterdir())
    syncing.run("edit", "run-3", "--reset")
    assert not list(syncing.spool.paths.edits.iterdir())


def test_delivered_run_is_refused_and_replay_takes_the_edit(fragments: Fragments, syncing: Syncing) -> None:
    name = fragments.add("tiny", "run-4")
    syncing.once()
    assert fragments.state(name) == "delivered"
    done = syncing.run("edit", name, "--name", "late")
    assert done.returncode == 2 and "wandb-spool replay run-4" in done.stderr
    assert not list(syncing.spool.paths.edits.iterdir())
    assert syncing.run("replay", name, "--id", "run-4b", "--no-sync").returncode == 0
    again = next(place.name for place in syncing.spool.scan().values() if ".r" in place.name)
    assert syncing.run("edit", again, "--name", "late").returncode == 0
    syncing.once()
    assert remote(syncing, "delivery", "run-4b")["displayName"] == "late"


@pytest.mark.parametrize(
    ("word", "value"),
    [("--project", "a/b"), ("--project", "p" * 129), ("--entity", "x:y"), ("--add-tag", "t" * 65), ("--add-tag", "")],
)
def test_name_that_wandb_would_refuse_is_one_line_and_changes_nothing(
    fragments: Fragments, syncing: Syncing, word: str, value: str
) -> None:
    fragments.add("tiny", "run-5")
    done = syncing.run("edit", "run-5", word, value)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "W&B would refuse" in done.stderr
    assert not list(syncing.spool.paths.edits.iterdir())


def test_name_in_the_log_that_wandb_refuses_is_told_before_the_push_and_edit_mends_it(
    fragments: Fragments, syncing: Syncing
) -> None:
    name = fragments.add("tiny", "run-6", project="a/b?c")
    syncing.once()
    assert fragments.state(name) == "quarantined"
    assert "a project can't contain '/' '?'" in why(fragments.entry(name))
    assert not syncing.sent()
    assert syncing.run("edit", name, "--project", "a-b-c").returncode == 0
    assert syncing.run("release", name).returncode == 0
    syncing.once()
    assert fragments.state(name) == "delivered"


def test_key_of_an_edit_is_what_the_format_says(fragments: Fragments) -> None:
    import hashlib

    entry = fragments.entry(fragments.add("tiny", "run-7", entity="team"))
    assert edit_key(entry) == hashlib.sha256(b"\nteam\ndelivery\nrun-7").hexdigest()[:32]


def test_later_edit_wins_and_tags_are_added_up() -> None:
    first = Edit(name="a", notes="n", add_tags=("x", "y"))
    then = Edit(name="b", add_tags=("z",), remove_tags=("y",)).over(first)
    assert then == Edit(name="b", notes="n", add_tags=("x", "z"), remove_tags=("y",))
    assert then.tags(("y", "old")) == ("old", "x", "z")
    assert Edit(name="b").tags(("y",)) is None


def test_names_follow_the_rules_of_wandbs_client() -> None:
    assert wrong_project("fine-name_1.2") is None
    for bad in ("a/b", "a#b", "x" * 129, " a", "", "a\nb"):
        assert wrong_project(bad)
    assert wrong_run_id("a/b") and wrong_run_id("a'b") and not wrong_run_id("a b")
    assert wrong_tag("") and wrong_tag("x" * 65) and not wrong_tag("x" * 64)
