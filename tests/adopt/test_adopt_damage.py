"""A tree with every kind of damage ends with the right table, and nothing of it is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wandb_spool.spool.log import RecordKind, move_artifacts, read_records, rewrite, rows
from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.states import State

from .trees import Tree, settle


def damage(tree: Tree) -> None:
    """One of each: torn, broken in the middle, seven bytes, no log, a link without target, staging that vanished."""
    torn = tree.log("torn")
    torn.write_bytes(torn.read_bytes()[:-50])
    broken = bytearray(tree.log("broken").read_bytes())
    records = [record for record in read_records(tree.log("broken")) if record.kind == RecordKind.HISTORY]
    broken[records[200].offset + 40] ^= 0xFF
    tree.log("broken").write_bytes(broken)
    tree.log("short").write_bytes(tree.log("short").read_bytes()[:7])
    tree.log("empty").unlink()
    link = tree.run_directory("unsaved") / "files" / "weights.bin"
    link.unlink()
    link.symlink_to(tree.root / "long" / "gone")
    Path(f"{tree.log('synced')}.synced").touch()
    settle(tree.root)


@pytest.fixture
def damaged(tree: Tree) -> Tree:
    damage(tree)
    # Its staged bytes are named by an absolute path: another file stands for the one that vanished.
    log = tree.log("unstaged")
    rewrite(log, log.with_suffix(".new"), move_artifacts(lambda path: f"{path}.vanished" if path else path))
    log.with_suffix(".new").replace(log)
    settle(tree.root)
    return tree


def test_table_tells_each_kind_of_damage(damaged: Tree) -> None:
    body = damaged.adopted()
    assert body["counts"] == {
        "complete": 3,
        "delivered already": 1,
        "will be mended": 1,
        "damaged": 3,
        "lost": 2,
    }
    by_id = {Path(run["path"]).name.rsplit("-", 1)[1]: run["category"] for run in body["runs"]}
    assert by_id == {
        "plain": "complete",
        "saved": "complete",
        "staged": "complete",
        "synced": "delivered already",
        "torn": "will be mended",
        "broken": "damaged",
        "unsaved": "damaged",
        "unstaged": "damaged",
        "short": "lost",
        "empty": "lost",
    }


def test_what_is_gone_is_named_before_anything_is_done(damaged: Tree) -> None:
    told = damaged.adopt("--dry-run")
    assert "files/weights.bin is a link to a file that is gone" in told
    assert "artifact bytes are gone" in told and ".vanished" in told
    assert "the log is damaged" in told and "records missing" in told
    assert "the log holds no run (7 bytes)" in told
    assert "no .wandb log in it" in told
    assert not damaged.spool_root.exists()


def test_copy_changes_nothing_of_theirs(damaged: Tree) -> None:
    before = damaged.fingerprint()
    damaged.adopt()
    assert damaged.fingerprint() == before


def test_lost_ones_are_void_and_counted_and_the_rest_is_due(damaged: Tree) -> None:
    damaged.adopt()
    assert damaged.counts() == {"incoming": 8, "void": 2}


def test_damaged_log_keeps_every_row_that_can_be_read(damaged: Tree) -> None:
    expected = sum(1 for _ in rows(damaged.log("broken"), salvage=True))
    damaged.adopt()
    assert 0 < expected < 400
    assert damaged.entries()["broken"].rows == expected


def test_what_lies_elsewhere_comes_along_and_what_is_gone_stands_in_the_manifest(damaged: Tree, logged: Path) -> None:
    damaged.adopt()
    root = damaged.spool_root
    entries = damaged.entries()
    saved, _ = read_manifest(entries["saved"].run_directory(root))
    assert any(item.path.endswith("files/weights.bin") and item.size_bytes == 3000 for item in saved.files)
    staged, _ = read_manifest(entries["staged"].run_directory(root))
    assert [item.size_bytes for item in staged.files if item.kind == "staged"] == [3000]
    for name in ("unsaved", "unstaged"):
        manifest, _ = read_manifest(entries[name].run_directory(root))
        assert [change["what"].partition(":")[0] for change in manifest.changed] == ["missing"], name
    for path in root.rglob("*"):
        assert not path.is_symlink(), path


def test_adopted_fragments_verify_and_are_private(damaged: Tree) -> None:
    damaged.adopt()
    for path in damaged.spool_root.rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 & ~allowed == 0, path


def test_adopting_again_adopts_nothing_twice(damaged: Tree) -> None:
    damaged.adopt()
    again = damaged.adopted()
    assert again["runs"] == []
    assert {item["why"] for item in again["left_alone"]} == {"adopted before"}
    assert sum(damaged.counts().values()) == 10


def test_circles_and_links_to_directories_end(tree: Tree) -> None:
    tree.only("plain")
    (tree.root / "project" / "circle").symlink_to(tree.root)
    (tree.root / "other").symlink_to("/usr")
    body = tree.adopted()
    assert len(body["runs"]) == 1
    assert str(tree.root / "other") in body["links_not_followed"]


def test_directory_that_cant_be_read_is_told(tree: Tree) -> None:
    if os.getuid() == 0:
        pytest.skip("root can read every directory")
    tree.only("plain")
    (tree.root / "secret").mkdir(mode=0)
    assert str(tree.root / "secret") in tree.adopted()["unreadable"]


def test_nothing_to_adopt_is_one_clear_line(tree: Tree) -> None:
    nothing = tree.home / "nothing"
    nothing.mkdir()
    assert "no run directory" in tree.adopt(code=2, where=nothing)
    assert "no such directory" in tree.adopt(code=2, where=nothing / "missing")
    tree.only("plain").adopt()
    assert "is a spool" in tree.adopt(code=2, where=tree.spool_root)
    assert State.INCOMING.value in tree.counts()


def test_link_to_what_is_found_anyway_is_no_news_and_a_linked_root_is_searched(tree: Tree) -> None:
    tree.only("plain", "saved")
    (tree.root / "linked").symlink_to(tree.root / "project")
    outside = tree.root.with_name("outside")
    outside.symlink_to(tree.root)
    assert "not followed" not in tree.adopt("--dry-run")
    tree.adopt(where=outside)
    assert tree.counts() == {"incoming": 2}


def test_spool_inside_the_adopted_directory_is_not_adopted_into_itself(tree: Tree) -> None:
    tree.only("plain", "saved")
    tree.spool_root = tree.root / "spool"
    tree.adopt()
    assert "nothing new" in tree.adopt()
    assert tree.counts() == {"incoming": 2}
