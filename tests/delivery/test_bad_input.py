"""What is wrong with a spool is said in one line, with the right exit code, and nothing is lost by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool

from .fragments import Fragments, Templates
from .syncing import Syncing


def test_a_spool_that_is_missing_or_none_or_newer_is_one_line_and_nothing_is_made(
    syncing: Syncing, tmp_path: Path
) -> None:
    empty, newer = tmp_path / "empty", tmp_path / "newer"
    empty.mkdir()
    body = json.loads(Spool.create(newer).paths.marker.read_text())
    (newer / "spool.json").write_text(json.dumps({**body, "format": 2}))
    for root, code, says in (
        (tmp_path / "absent", 2, "no such spool directory"),
        (empty, 2, "not a spool"),
        (newer, 4, "format 2"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "wandb_spool", "sync", "--spool", str(root)],
            env=syncing.environment(), cwd=syncing.home, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert says in done.stderr
    assert not (tmp_path / "absent").exists() and not list(empty.iterdir())


def test_an_entry_that_is_not_json_is_told_and_the_others_are_delivered(syncing: Syncing, fragments: Fragments) -> None:
    damaged, good = fragments.add("tiny"), fragments.add("tiny")
    path = fragments.place(damaged).path
    before = path.read_bytes()
    path.write_text("{ not JSON")
    done = syncing.run("sync")
    assert done.returncode == 3 and str(path) in done.stderr and "Traceback" not in done.stderr
    assert (fragments.state(good), fragments.state(damaged)) == ("delivered", "incoming")
    path.write_bytes(before)
    assert syncing.once().exit_code == 0 and fragments.state(damaged) == "delivered"


def test_an_entry_in_two_directories_is_repaired_and_delivered_once(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny")
    place = fragments.place(name)
    shutil.copy(place.path, place.path.parent.parent / "deferred")
    done = syncing.run("sync")
    assert f"{name}: was also in incoming; deferred stands" in done.stderr
    assert fragments.state(name) == "delivered"
    assert list(fragments.spool.root.glob("queue/**/*.json")) == [fragments.place(name).path]
    assert syncing.server.report().run(fragments.entry(name).run_id or "").once_and_in_place


@pytest.mark.parametrize("size_bytes", [0, 7, 40])
def test_a_log_that_holds_no_run_is_void_and_never_pushed(
    syncing: Syncing, fragments: Fragments, size_bytes: int
) -> None:
    name = fragments.add("tiny", damage=lambda log: os.truncate(log, size_bytes))
    result = syncing.once()
    assert (fragments.state(name), result.exit_code, syncing.sent()) == ("void", 0, {})


INSIDE = """
mount -t tmpfs -o size={size} none {spool} || exit 99
cp -a {copy}/. {spool}/
{then}
exec {command}
"""


def _in_a_mount(syncing: Syncing, copy: Path, size: str, then: str) -> subprocess.CompletedProcess[str]:
    """`sync` on a tmpfs that only this command sees, filled with a copy of the spool."""
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    syncing.write_configuration()
    spool = syncing.spool.root
    command = " ".join(syncing.command("sync"))
    inside = INSIDE.format(size=size, spool=spool, copy=copy, command=command, then=then.format(spool=spool))
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", inside],
        env=syncing.environment(), cwd=syncing.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "then", "says"),
    [
        ("64m", "mount -o remount,ro {spool}", "read-only"),
        ("8m", "cat /dev/zero > {spool}/fill 2>/dev/null", "the disk is full"),
    ],
    ids=["read-only", "full"],
)
def test_a_spool_that_cant_be_written_is_one_line_and_nothing_is_lost(
    syncing: Syncing, fragments: Fragments, tmp_path: Path, size: str, then: str, says: str
) -> None:
    name = fragments.add("tiny")
    copy = tmp_path / "copy"
    shutil.copytree(fragments.spool.root, copy, symlinks=True)
    done = _in_a_mount(syncing, copy, size, then)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not syncing.sent(), "something was sent that could not have been written down"
    assert fragments.state(name) == "incoming"
    assert syncing.once().exit_code == 0


def test_a_run_of_a_shared_spool_that_names_no_entity_is_not_sent_to_the_syncers_own(
    syncing: Syncing, templates: Templates
) -> None:
    shared = replace(syncing.spool, group="root")
    fragments = Fragments(shared, templates)
    name = fragments.add("tiny")
    named = fragments.add("tiny", entity="team")
    result = replace(syncing, spool=shared).once()
    assert result.exit_code == 3 and fragments.state(named) == "delivered"
    entry = fragments.entry(name)
    assert fragments.state(name) == "deferred" and (entry.reason or "").startswith("configuration: ")
    assert ("team", "delivery", fragments.entry(named).run_id) in syncing.server.report().runs
