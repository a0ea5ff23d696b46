"""What a person changed of a run before it was packed is what is delivered behind the gap."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.spool.bundle_index import BundleError
from wandb_spool.spool.bundle_unpack import unpack
from wandb_spool.spool.edits import Edit, load_edit, save_edit
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .fabric import Fabric, tree
from .machines import Machine
from .opening import members, sealed_again

EDIT = Edit(name="bétter", project="elsewhere", notes="", add_tags=("a", "b"), remove_tags=("c",))


def _packed(cluster: Machine, fabric: Fabric, edit: Edit = EDIT) -> Path:
    entry = fabric.spool.read(fabric.sealed("edited1"))
    save_edit(fabric.spool, entry, edit, by="somebody", now_s=0.0)
    cluster.run("pack", "--out", "runs.tar.zst")
    return cluster.home / "runs.tar.zst"


def _edits(machine: Machine) -> list[Edit]:
    spool = machine.spool()
    return [load_edit(spool.root, spool.read(place)) for place in spool.scan().values()]


def test_an_edit_travels_with_its_run_and_twice_is_once(cluster: Machine, fabric: Fabric, beyond: Machine) -> None:
    bundle = _packed(cluster, fabric)
    assert json.loads(members(bundle)["index.json"])["format"] == 2
    assert b"edited as where it was packed" in beyond.run("unpack", str(bundle)).stdout
    assert _edits(beyond) == [EDIT]
    before = tree(beyond.root)
    beyond.run("unpack", str(bundle))
    assert tree(beyond.root) == before
    assert b"somebody" not in members(bundle)["index.json"]


def test_a_bundle_without_edits_is_of_format_1_as_ever(cluster: Machine, fabric: Fabric) -> None:
    index = json.loads(members(_packed(cluster, fabric, Edit()))["index.json"])
    assert index["format"] == 1
    assert all("edit" not in fragment for fragment in index["fragments"])


def test_another_edit_behind_the_gap_is_told_and_stays(cluster: Machine, fabric: Fabric, beyond: Machine) -> None:
    bundle = _packed(cluster, fabric)
    there = Spool.create(beyond.root)
    mine = Edit(name="mine")
    entry = next(fabric.spool.read(place) for place in fabric.spool.places(State.TRANSIT))
    save_edit(there, entry, mine, by="me")
    assert b"another edit of its run is here" in beyond.run("unpack", str(bundle), code=3).stderr
    assert _edits(beyond) == [mine]
    assert set(beyond.states().values()) == {State.INCOMING}


def test_an_edit_that_comes_later_is_taken_until_some_of_the_run_was_pushed(
    cluster: Machine, fabric: Fabric, beyond: Machine
) -> None:
    bundle = _packed(cluster, fabric, Edit())
    beyond.run("unpack", str(bundle))
    entry = next(fabric.spool.read(place) for place in fabric.spool.places(State.TRANSIT))
    cluster.run("release", entry.name, "--transit", "--yes")
    save_edit(fabric.spool, entry, EDIT, by="somebody")
    cluster.run("pack", "--out", "again.tar.zst")
    spool = beyond.spool()
    place = spool.claim(next(iter(spool.places(State.INCOMING))))
    tried = replace(spool.read(place), attempts=1)
    spool.move(place, State.DEFERRED, tried)
    assert b"pushed from here without it" in beyond.run("unpack", str(cluster.home / "again.tar.zst"), code=3).stderr
    assert _edits(beyond) == [Edit()]
    place = spool.claim(next(iter(spool.places(State.DEFERRED))))
    spool.move(place, State.INCOMING, replace(tried, attempts=0))
    beyond.run("unpack", str(cluster.home / "again.tar.zst"))
    assert _edits(beyond) == [EDIT]


def test_a_damaged_edit_keeps_its_run_at_home(cluster: Machine, fabric: Fabric) -> None:
    entry = fabric.spool.read(fabric.sealed("edited1"))
    save_edit(fabric.spool, entry, EDIT, by="somebody")
    next(fabric.spool.paths.edits.iterdir()).write_text("{")
    assert b"the edit can't be understood" in cluster.run("pack", "--out", "runs.tar.zst", code=4).stderr
    assert cluster.states() == {entry.name: State.INCOMING}


def _change(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["fragments"][0]["edit"].update(changed)


@pytest.mark.parametrize(
    "change",
    [
        _change(project=5),
        _change(project="../../etc"),
        _change(project=""),
        _change(entity="a b "),
        _change(add_tags="a"),
        _change(add_tags=["a" * 65]),
        _change(remove_tags=[None]),
        _change(notes="n" * (2 << 20)),
        _change(more="a key"),
        _change(name="\ud800"),
        lambda index: index["fragments"][0].update(edit=None),
        lambda index: index["fragments"][0].update(edit=[]),
        lambda index: index["fragments"][0]["edit"].pop("name"),
        lambda index: index["fragments"][0].update(edit=Edit().as_json()),
        lambda index: index["fragments"][0].pop("edit"),
        lambda index: index.update(format=1),
        lambda index: index.update(format=3),
    ],
)
def test_an_edit_that_nobody_could_have_made_is_refused_without_a_trace(
    cluster: Machine, fabric: Fabric, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    bundle = _packed(cluster, fabric)
    spool = Spool.create(tmp_path / "target")
    before = tree(spool.root)

    def apply(index: dict[str, Any], contents: dict[str, bytes]) -> None:
        change(index)

    altered = sealed_again(bundle, apply)
    with pytest.raises(BundleError):
        unpack(spool, io.BytesIO(altered), name="carried", now_s=0.0)
    assert tree(spool.root) == before


def test_an_edit_after_the_packing_is_told_and_no_old_bundle_stands_for_it(cluster: Machine, fabric: Fabric) -> None:
    _packed(cluster, fabric, Edit())
    assert b"goes as it was then" in cluster.run("edit", "edited1", "--name", "later").stderr
    cluster.run("release", "--bundle", "runs.tar.zst", "--yes")
    assert b"choose another --out" in cluster.run("pack", "--out", "runs.tar.zst", code=3).stderr
    assert set(cluster.states().values()) == {State.INCOMING}
    assert b"edited since" in cluster.run("pack", "--sent", "runs.tar.zst", code=3).stderr
    assert set(cluster.states().values()) == {State.INCOMING}
    cluster.run("pack", "--out", "again.tar.zst")
    assert set(cluster.states().values()) == {State.TRANSIT}
