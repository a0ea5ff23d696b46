"""After the seal nothing in a run is a link: what it showed is kept, what can't be is told, nothing else leaks in."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from delivery.fragments import Fragments

from wandb_spool.spool import durable
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.errors import DamagedError
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State

SECRET = b"what only this host's user may read"


def unsealed(fragments: Fragments) -> tuple[Entry, Path, Path]:
    """An open fragment: its entry, its run directory, its launch directory."""
    found = fragments.entry(fragments.add("tiny", seal=False))
    return found, found.run_directory(fragments.spool.root), found.launch_directory(fragments.spool.root)


def seal(fragments: Fragments, found: Entry, *, here: bool = True) -> Manifest:
    moved = seal_fragment(fragments.spool, fragments.place(found.name), follow_links=here)
    assert moved.state is State.INCOMING
    manifest, _ = read_manifest(found.run_directory(fragments.spool.root))
    assert_no_links(found.run_directory(fragments.spool.root))
    return manifest


def assert_no_links(directory: Path) -> None:
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            status = os.lstat(Path(parent) / name)
            assert stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1), name


def listed(manifest: Manifest) -> set[str]:
    return {item.path.rpartition("/files/")[2] for item in manifest.files if item.kind == "file"}


def told(manifest: Manifest) -> dict[str, str]:
    return {change["path"].rpartition("/files/")[2]: change["what"].partition(":")[0] for change in manifest.changed}


def test_symbolic_link_to_a_file_keeps_what_it_showed_at_the_seal(fragments: Fragments, tmp_path: Path) -> None:
    found, run, _ = unsealed(fragments)
    model = tmp_path / "model.pt"
    model.write_bytes(b"this run's weights")
    (run / "files" / "model.pt").symlink_to(model)
    manifest = seal(fragments, found)
    model.write_bytes(b"the next run's weights")
    assert (run / "files" / "model.pt").read_bytes() == b"this run's weights"
    assert "model.pt" in listed(manifest) and manifest.changed == ()


def test_hard_link_is_cut_from_what_is_rewritten_in_place_later(fragments: Fragments, tmp_path: Path) -> None:
    found, run, _ = unsealed(fragments)
    model = tmp_path / "model.pt"
    model.write_bytes(b"this run's weights")
    os.link(model, run / "files" / "model.pt")
    seal(fragments, found)
    with model.open("r+b") as stream:
        stream.write(b"THE NEXT")
    assert (run / "files" / "model.pt").read_bytes() == b"this run's weights"


def test_relative_link_and_chain_of_links_are_followed(fragments: Fragments) -> None:
    found, run, launch = unsealed(fragments)
    (launch / "data" / "weights").write_bytes(b"w")
    (run / "files" / "one").symlink_to("two")
    (run / "files" / "two").symlink_to("../../../data/weights")
    assert {"one", "two"} <= listed(seal(fragments, found))
    assert (run / "files" / "one").read_bytes() == b"w"


def test_directory_behind_a_link_is_copied_with_all_that_it_shows(fragments: Fragments, tmp_path: Path) -> None:
    found, run, _ = unsealed(fragments)
    outside = tmp_path / "checkpoints"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a").write_bytes(b"a")
    (outside / "b").symlink_to("deep/a")
    (outside / "also").symlink_to("deep")
    os.mkfifo(outside / "pipe")
    (run / "files" / "ckpt").symlink_to(outside)
    manifest = seal(fragments, found)
    assert {"ckpt/deep/a", "ckpt/b", "ckpt/also/a"} <= listed(manifest)
    assert told(manifest) == {"ckpt/pipe": "unsafe"}
    assert (outside / "b").is_symlink(), "the original is left alone"


def no_target(target: Path) -> None:
    pass


def itself(target: Path) -> None:
    target.symlink_to(target)


def pipe(target: Path) -> None:
    os.mkfifo(target)


def bound_socket(target: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(target.parent)
        made.bind(target.name)


def device(target: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a device")
    os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: reading it would never end


@pytest.mark.parametrize(
    ("make", "what"),
    [(no_target, "missing"), (itself, "unsafe"), (pipe, "unsafe"), (bound_socket, "unsafe"), (device, "unsafe")],
)
@pytest.mark.parametrize("linked", [True, False], ids=["behind a link", "in the run"])
def test_what_is_no_file_is_told_and_blocks_nothing(
    fragments: Fragments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    what: str,
    linked: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, run, _ = unsealed(fragments)
    place = run / "files" / "odd"
    if linked:
        make(tmp_path / "odd")
        place.symlink_to(tmp_path / "odd")
    elif make is no_target:
        pytest.skip("there is nothing")
    else:
        make(place)
    manifest = seal(fragments, found)
    assert told(manifest) == {"odd": what}
    assert "odd" not in listed(manifest)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/"])
def test_link_to_a_directory_that_it_lies_in_is_told_and_ends(fragments: Fragments, target: str) -> None:
    found, run, _ = unsealed(fragments)
    (run / "files" / "loop").symlink_to(target)
    manifest = seal(fragments, found)
    assert told(manifest) == {"loop": "unsafe"}


def test_directories_that_link_to_each_other_end(fragments: Fragments, tmp_path: Path) -> None:
    found, run, _ = unsealed(fragments)
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "to").symlink_to(tmp_path / other)
        (tmp_path / name / f"file-{name}").write_text(name)
    (run / "files" / "ring").symlink_to(tmp_path / "a")
    manifest = seal(fragments, found)
    assert {"ring/file-a", "ring/to/file-b"} <= listed(manifest)
    assert told(manifest) == {"ring/to/to": "unsafe"}


# -- sealed on another host ------------------------------------------------------------------------------------------


def absolute(run: Path, launch: Path, secret: Path) -> None:
    (run / "files" / "leak").symlink_to(secret)


def by_dots(run: Path, launch: Path, secret: Path) -> None:
    (run / "files" / "leak").symlink_to(os.path.relpath(secret, run / "files"))


def through_the_launch(run: Path, launch: Path, secret: Path) -> None:
    (launch / "data" / "stone").symlink_to(secret)
    (run / "files" / "leak").symlink_to(launch / "data" / "stone")


def nested_in_a_directory(run: Path, launch: Path, secret: Path) -> None:
    (launch / "data" / "folder").mkdir()
    (launch / "data" / "folder" / "leak").symlink_to(secret)
    (run / "files" / "folder").symlink_to(launch / "data" / "folder")


def whole_directory(run: Path, launch: Path, secret: Path) -> None:
    (run / "files" / "folder").symlink_to(secret.parent)


@pytest.mark.parametrize("lay", [absolute, by_dots, through_the_launch, nested_in_a_directory, whole_directory])
def test_link_out_of_the_launch_is_not_followed_on_another_host(
    fragments: Fragments, tmp_path: Path, lay: Callable[[Path, Path, Path], None]
) -> None:
    found, run, launch = unsealed(fragments)
    secret = tmp_path / "private" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(SECRET)
    lay(run, launch, secret)
    manifest = seal(fragments, found, here=False)
    assert set(told(manifest).values()) == {"unsafe"}
    kept = [launch / item.path for item in manifest.files]
    assert all(SECRET not in path.read_bytes() for path in kept)
    assert secret.read_bytes() == SECRET


def test_link_within_the_launch_is_followed_on_another_host(fragments: Fragments) -> None:
    found, run, launch = unsealed(fragments)
    (launch / "data" / "weights").write_bytes(b"w")
    (run / "files" / "weights").symlink_to(launch / "data" / "weights")
    assert "weights" in listed(seal(fragments, found, here=False))


@pytest.mark.parametrize("name", ["new\nline", "tab\t", "\x01"], ids=repr)
def test_name_that_a_manifest_cannot_hold_is_told(fragments: Fragments, name: str) -> None:
    found, run, _ = unsealed(fragments)
    (run / "files" / name).write_text("x")
    manifest = seal(fragments, found)
    assert set(told(manifest).values()) == {"unsafe"}


def test_name_that_is_no_utf8_is_told(fragments: Fragments) -> None:
    found, run, _ = unsealed(fragments)
    Path(os.fsdecode(bytes(run / "files") + b"/weights-\xff.bin")).write_text("x")
    manifest = seal(fragments, found)
    (change,) = manifest.changed
    assert change["path"].endswith("weights-\\udcff.bin") and change["what"].startswith("unsafe")


def test_entry_whose_path_leads_out_of_the_spool_is_damage(spool: Spool, fragments: Fragments) -> None:
    found, _, _ = unsealed(fragments)
    place = fragments.place(found.name)
    for path in ("../elsewhere", "/etc", ""):
        durable.write_json(place.path, replace(found, path=path).as_json())
        with pytest.raises(DamagedError):
            seal_fragment(spool, place)
        assert [other.state for other in spool.scan().values()] == [State.OPEN]
