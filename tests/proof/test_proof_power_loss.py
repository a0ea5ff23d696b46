"""Power loss for real: an ext4 in a file whose power is cut. What was acknowledged is there afterwards, whole.

`EXT4_IOC_SHUTDOWN` without a flush of the log stops the file system as a cut of power does; root and a loop device are
needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import Disk
from spool.entries import entry

from wandb_spool.spool import durable, receipts
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.recover import Observations, put_back_abandoned
from wandb_spool.spool.states import State


class Cut(Exception):
    """The moment at which the power goes."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk.make(tmp_path)
    yield disk
    disk.unmount()


@pytest.fixture(autouse=True)
def no_attack() -> Iterator[None]:
    yield
    durable.on_step = None


def fresh(disk: Disk, number: int) -> tuple[Spool, Place]:
    """A spool with one incoming entry, all of it on the disk."""
    spool = Spool.create(disk.at / f"spool-{number}")
    place = spool.move(spool.add(entry()), State.INCOMING)
    os.sync()
    return spool, place


def cut_before(step: int) -> None:
    """The power goes before the n-th durable step from now."""
    left = step

    def on_step(name: str, path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut(f"{name} {path.name}")

    durable.on_step = on_step


def test_entry_is_whole_and_in_one_place_whenever_the_power_goes_during_a_move(disk: Disk) -> None:
    for step in range(100):
        spool, place = fresh(disk, step)
        cut_before(step)
        acknowledged = False
        try:
            spool.move(place, State.HELD, entry(attempts=7), why="a person said so")
            acknowledged = True
        except Cut:
            pass
        durable.on_step = None
        disk.after_power_loss()
        spool = Spool.open(spool.root)
        found = spool.scan()
        assert list(found) == [place.name], f"the entry is gone after a cut before step {step}"
        body = spool.read(found[place.name])
        for active in list(spool.places(State.ACTIVE)):
            spool.put_back(active)
        stands = spool.scan()[place.name]
        assert stands.state in (State.INCOMING, State.HELD)
        assert (body.attempts == 7) >= (stands.state is State.HELD)
        if acknowledged:
            assert stands.state is State.HELD, "a move that returned survives"
            assert step > 5
            return
    raise AssertionError("the move never ended")


def test_receipt_that_was_acknowledged_survives(disk: Disk) -> None:
    for step in range(30):
        spool, _ = fresh(disk, step)
        cut_before(step)
        acknowledged = False
        try:
            receipts.append_receipt(spool, {"entry": "proof"})
            acknowledged = True
        except Cut:
            pass
        durable.on_step = None
        disk.after_power_loss()
        found = [receipt["entry"] for receipt in receipts.read_receipts(Spool.open(spool.root))]
        assert found in ([], ["proof"])
        if acknowledged:
            assert found == ["proof"]
            receipts.append_receipt(spool, {"entry": "next"})
            assert [receipt["entry"] for receipt in receipts.read_receipts(spool)] == ["proof", "next"]
            return
    raise AssertionError("the receipt was never written")


def test_manifest_is_old_or_new_and_never_half(disk: Disk) -> None:
    old, new = {"format": 1, "rows": 0}, {"format": 1, "rows": 1, "much": "x" * 20_000}
    for step in range(30):
        directory = disk.at / f"run-{step}"
        durable.make_directory(directory)
        durable.write_json(directory / "manifest.json", old)
        cut_before(step)
        acknowledged = False
        try:
            durable.write_json(directory / "manifest.json", new)
            acknowledged = True
        except Cut:
            pass
        durable.on_step = None
        disk.after_power_loss()
        found = json.loads((directory / "manifest.json").read_text())
        assert found in ((new,) if acknowledged else (old, new)), f"half a manifest after a cut before step {step}"
        if acknowledged:
            return
    raise AssertionError("the manifest was never written")


def test_new_spool_and_launch_are_there_once_they_were_acknowledged(disk: Disk) -> None:
    spool = Spool.create(disk.at / "spool")
    launch = Launch.create(spool, ["python", "train.py"])
    disk.after_power_loss()
    again = Spool.open(disk.at / "spool")
    assert again.spool_id == spool.spool_id
    assert Launch.at(again, launch.paths.root).record()["command"] == ["python", "train.py"]
    assert all(again.paths.queue(state).is_dir() for state in State)


def test_what_was_written_without_the_durable_write_is_lost(disk: Disk) -> None:
    """The attack itself can fail: this is what the fsyncs are for."""
    directory = disk.at / "careless"
    durable.make_directory(directory)
    (directory / "new").write_text("content")
    (directory / "new").rename(directory / "entry.json")
    disk.after_power_loss()
    assert not (directory / "entry.json").exists() or (directory / "entry.json").read_text() == ""


def test_abandoned_entries_are_put_back_after_the_boot(disk: Disk) -> None:
    spool, place = fresh(disk, 0)
    token = f"{place.name}~{'host'}-4194304-0a0b0c0d"
    owned = spool.claim(place, token=token.partition("~")[2])
    disk.after_power_loss()
    assert [found.path for found in spool.places(State.ACTIVE)] == [owned.path]
    watched = Observations()
    put_back_abandoned(spool, watched, now_s=lambda: 0.0, stale_after_s=1.0)
    put_back_abandoned(spool, watched, now_s=lambda: 2.0, stale_after_s=1.0)
    assert spool.scan()[place.name].state is State.INCOMING
