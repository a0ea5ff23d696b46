"""A sealed fragment is complete, immutable and told; what can't be sealed stays open, and a later seal does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import mounts
import pytest
from delivery.fragments import Fragments, train

from wandb_spool.spool import clock, durable, seal
from wandb_spool.spool.capture import digest_file
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.errors import LostRaceError, StorageError
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.log import artifacts
from wandb_spool.spool.manifest import MANIFEST_NAME, Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import Observations, open_entry, put_back_abandoned, recover
from wandb_spool.spool.seal import reopen, seal_fragment, unsealed_growth, wait_for_writers
from wandb_spool.spool.states import State

from .entries import entry


def manifest_of(fragments: Fragments, name: str) -> Manifest:
    return read_manifest(fragments.entry(name).run_directory(fragments.spool.root))[0]


def test_sealed_fragment_lists_every_file_with_size_and_digest(fragments: Fragments) -> None:
    name = fragments.add("rich")
    found, manifest = fragments.entry(name), manifest_of(fragments, name)
    launch = found.launch_directory(fragments.spool.root)
    assert {item.kind for item in manifest.files} >= {"log", "file", "staged"}
    for item in manifest.files:
        assert digest_file(launch / item.path) == (item.size_bytes, item.sha256)
    files = found.run_directory(fragments.spool.root) / "files"
    below = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()} - seal.GENERATED
    assert {"model.bin", "we [ird] näme.txt"} <= below
    assert below == {item.path.rpartition("/files/")[2] for item in manifest.files if item.kind == "file"}


def test_sealing_twice_is_harmless(fragments: Fragments) -> None:
    """Two copies of one entry, or a crash between manifest and move: the second seal says what the first one said."""
    name = fragments.add("rich")
    spool, first = fragments.spool, fragments.entry(name)
    directory = first.run_directory(spool.root)
    content = (directory / MANIFEST_NAME).read_bytes()
    fragments.place(name).path.unlink()
    place = spool.add(replace(first, manifest_sha256=None, history=(), reason="unsealed: the disk was full"))
    moved = seal_fragment(spool, place, process_exit_code=9, provisional=True, now_s=4e9)
    assert (directory / MANIFEST_NAME).read_bytes() == content
    assert (spool.read(moved).manifest_sha256, spool.read(moved).reason) == (first.manifest_sha256, None)


def test_second_seal_says_what_changed_since_the_first(fragments: Fragments) -> None:
    name = fragments.add("tiny")
    spool, first = fragments.spool, fragments.entry(name)
    fragments.place(name).path.unlink()
    place = spool.add(replace(first, manifest_sha256=None, history=()))
    (first.run_directory(spool.root) / "files" / "late.txt").write_text("late")
    moved = seal_fragment(spool, place)
    assert spool.read(moved).manifest_sha256 != first.manifest_sha256
    assert any(item.path.endswith("late.txt") for item in manifest_of(fragments, name).files)


def test_run_whose_directory_vanished_is_void_and_says_so(fragments: Fragments) -> None:
    name = fragments.add("tiny", seal=False)
    shutil.rmtree(fragments.entry(name).run_directory(fragments.spool.root))
    moved = seal_fragment(fragments.spool, fragments.place(name))
    assert moved.state is State.VOID
    assert (fragments.entry(name).reason or "").startswith("vanished")


def test_file_that_vanishes_during_the_seal_does_not_make_the_run_void(
    fragments: Fragments, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fragments.add("tiny", seal=False)
    real = digest_file

    def vanishing(path: Path, **options: Any) -> tuple[int, str]:
        if path.parent.name == "logs":
            path.unlink()
        return real(path, **options)

    monkeypatch.setattr(seal, "digest_file", vanishing)
    with pytest.raises(StorageError):
        seal_fragment(fragments.spool, fragments.place(name))
    assert fragments.state(name) == "open"
    monkeypatch.undo()
    assert seal_fragment(fragments.spool, fragments.place(name)).state is State.INCOMING


@pytest.mark.parametrize("keep", [0, 3, 7], ids=["empty", "half a header", "the header alone"])
def test_log_that_holds_nothing_is_void(fragments: Fragments, keep: int) -> None:
    name = fragments.add("tiny", damage=lambda log: os.truncate(log, keep))
    assert fragments.state(name) == "void"
    assert (fragments.entry(name).reason or "").startswith("void")


def test_fragment_without_a_log_is_void(fragments: Fragments) -> None:
    assert fragments.state(fragments.add("tiny", damage=os.unlink)) == "void"


def test_torn_log_is_sealed_with_what_it_holds_and_the_rest_is_counted(fragments: Fragments) -> None:
    def tear(log: Path) -> None:
        os.truncate(log, log.stat().st_size * 6 // 10)
        sign = f"wandb-spool alive 1 seq={9:012d} rows={1000:012d} refused={2:012d} step={999:020d} phase=running  "
        line = f"{sign}exit=-001 pid={4711:010d} ".encode()
        (log.parent / "alive").write_bytes((line + b"crc=%08x" % zlib.crc32(line)).ljust(255) + b"\n")

    manifest = manifest_of(fragments, fragments.add("thousand", damage=tear))
    assert manifest.log_ending == "torn" and 0 < manifest.rows_kept < 1000
    assert (manifest.rows_logged, manifest.rows_lost) == (1000, 1000 - manifest.rows_kept)
    assert (manifest.calls_refused, manifest.exit_code) == (2, None)
    assert manifest.last_step == manifest.rows_kept - 1


def test_held_launch_is_sealed_into_held(fragments: Fragments) -> None:
    name = fragments.add("tiny", seal=False)
    assert seal_fragment(fragments.spool, fragments.place(name), hold=True).state is State.HELD


def test_two_sealers_at_once_make_one_seal(fragments: Fragments) -> None:
    name = fragments.add("tiny", seal=False)
    place = fragments.place(name)
    seal_fragment(fragments.spool, place)
    with pytest.raises(LostRaceError):
        seal_fragment(fragments.spool, place)


def test_provisional_seal_is_taken_back_when_the_log_grows(fragments: Fragments) -> None:
    name = fragments.add("tiny", seal=False)
    moved = seal_fragment(fragments.spool, fragments.place(name), provisional=True)
    found = fragments.entry(name)
    assert manifest_of(fragments, name).provisional and not unsealed_growth(fragments.spool, found)
    log = log_path(found.run_directory(fragments.spool.root))
    assert log is not None
    with log.open("ab") as stream:
        stream.write(b"more")
    assert unsealed_growth(fragments.spool, found)
    assert reopen(fragments.spool, moved).state is State.OPEN
    assert not (log.parent / MANIFEST_NAME).exists()
    assert fragments.entry(name).manifest_sha256 is None


# -- artifacts of the real client ------------------------------------------------------------------------------------

ARTIFACTS = """
import os, pathlib, wandb
run = wandb.init(project="p", id="art")
pathlib.Path("a.bin").write_bytes(b"mutable bytes")
pathlib.Path("b.bin").write_bytes(b"immutable bytes")
made = wandb.Artifact("both", "model")
made.add_file("a.bin", policy="mutable")
made.add_file(os.path.abspath("b.bin"), policy="immutable")
run.log_artifact(made)
run.log({"loss": 1})
run.finish()
"""


def logged_artifacts(tmp_path: Path, home: Path, *, hook: bool = True) -> tuple[Spool, Entry, Path]:
    """An open fragment with both kinds of artifact files, and the directory of the originals."""
    work = tmp_path / "work"
    work.mkdir()
    root = tmp_path / "spool"
    train(root, home, sys.executable, *(() if hook else ("-I",)), "-c", ARTIFACTS, cwd=work)
    spool = Spool.open(root)
    (place,) = spool.scan().values()
    return spool, spool.read(place), work


def unseal(spool: Spool, found: Entry) -> None:
    (found.run_directory(spool.root) / MANIFEST_NAME).unlink()
    shutil.rmtree(found.launch_directory(spool.root) / "data" / "sealed", ignore_errors=True)
    (place,) = spool.scan().values()
    place.path.unlink()
    spool.add(replace(found, manifest_sha256=None, history=()))


def test_bytes_of_mutable_and_immutable_artifacts_are_in_the_launch(tmp_path: Path, home: Path) -> None:
    spool, found, work = logged_artifacts(tmp_path, home)
    shutil.rmtree(work)
    manifest, _ = read_manifest(found.run_directory(spool.root))
    staged = {item.source: item for item in manifest.files if item.kind == "staged"}
    contents = sorted((found.launch_directory(spool.root) / item.path).read_bytes() for item in staged.values())
    assert contents == [b"immutable bytes", b"mutable bytes"]
    assert manifest.changed == () and [item["incomplete"] for item in manifest.artifacts] == [False]
    log = log_path(found.run_directory(spool.root))
    assert log is not None
    named = {entry.local_path for made in artifacts(log) for entry in made.entries()}
    assert named == set(staged), "every path that the log names is told where it lies now"


def test_artifact_bytes_that_are_gone_are_told(tmp_path: Path, home: Path) -> None:
    spool, found, work = logged_artifacts(tmp_path, home, hook=False)
    unseal(spool, found)
    (work / "b.bin").unlink()
    (place,) = spool.scan().values()
    assert seal_fragment(spool, place).state is State.INCOMING
    manifest, _ = read_manifest(found.run_directory(spool.root))
    (change,) = manifest.changed
    assert change == {"path": str(work / "b.bin"), "what": "missing: staged file is gone"}
    assert [item["incomplete"] for item in manifest.artifacts] == [True]


def test_artifact_bytes_outside_are_not_taken_on_another_host(tmp_path: Path, home: Path) -> None:
    spool, found, work = logged_artifacts(tmp_path, home, hook=False)
    unseal(spool, found)
    (place,) = spool.scan().values()
    seal_fragment(spool, place, follow_links=False)
    manifest, _ = read_manifest(found.run_directory(spool.root))
    assert [change["what"].partition(":")[0] for change in manifest.changed] == ["unsafe"]
    assert not any(item.source == str(work / "b.bin") for item in manifest.files)


def test_staged_file_with_a_second_name_is_copied(tmp_path: Path, home: Path) -> None:
    """A hard link in the staging area is still somebody else's file."""
    spool, found, _ = logged_artifacts(tmp_path, home, hook=False)
    unseal(spool, found)
    (staged,) = (found.launch_directory(spool.root) / "data" / "artifacts" / "staging").glob("*")
    os.link(staged, tmp_path / "second name")
    (place,) = spool.scan().values()
    seal_fragment(spool, place)
    manifest, _ = read_manifest(found.run_directory(spool.root))
    for item in manifest.files:
        assert (found.launch_directory(spool.root) / item.path).stat().st_nlink == 1


# -- disks that are full ---------------------------------------------------------------------------------------------


def test_seal_on_a_full_disk_leaves_the_entry_open_with_the_reason_and_a_later_seal_works(
    tmp_path: Path, fragments: Fragments
) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(os.urandom(1 << 20))
    with mounts.tmpfs(tmp_path / "small", "size=12m") as disk:
        small = Fragments(Spool.create(disk / "spool"), fragments.templates)
        name = small.add("tiny", seal=False)
        run = small.entry(name).run_directory(small.spool.root)
        (run / "files" / "model.bin").symlink_to(model)
        ballast = mounts.fill(disk, leave_bytes=64 << 10)
        with pytest.raises(StorageError) as told:
            seal_fragment(small.spool, small.place(name))
        assert told.value.full
        assert small.state(name) == "open"
        assert (small.entry(name).reason or "").startswith("unsealed: ")
        ballast.unlink()
        model.write_bytes(b"changed meanwhile")
        moved = seal_fragment(small.spool, small.place(name))
        assert (moved.state, small.entry(name).reason) == (State.INCOMING, None)
        assert (run / "files" / "model.bin").read_bytes() == b"changed meanwhile"


def test_disk_without_a_single_byte_keeps_every_entry_whole(tmp_path: Path, fragments: Fragments) -> None:
    """The seal, the reason and the move all fail; the entry is readable and open, and nothing half is in the queue."""
    with mounts.tmpfs(tmp_path / "small", "size=12m") as disk:
        small = Fragments(Spool.create(disk / "spool"), fragments.templates)
        names = [small.add("tiny", seal=False) for _ in range(3)]
        before = {name: small.entry(name) for name in names}
        ballast = mounts.fill(disk)
        for name in names:
            with pytest.raises(StorageError):
                seal_fragment(small.spool, small.place(name))
            with pytest.raises(StorageError):
                small.spool.add(replace(before[name], name=f"{name}.r0a1b2c3d", command="x" * 100_000))
        assert {name: (small.state(name), small.entry(name)) for name in names} == {
            name: ("open", found) for name, found in before.items()
        }
        ballast.unlink()
        assert list(small.spool.places(State.ACTIVE)) == []
        assert {item.state for item in recover(small.spool, Observations())} == {State.INCOMING}


def test_entry_that_does_not_fit_is_absent_and_not_half(tmp_path: Path) -> None:
    """A disk with room for the first part of a write takes it without an error."""
    with mounts.tmpfs(tmp_path / "small", "size=1m") as disk:
        spool = Spool.create(disk / "spool")
        mounts.fill(disk, leave_bytes=16 << 10)
        with pytest.raises(StorageError) as told:
            spool.add(entry(command="x" * 60_000))
        assert told.value.full and spool.scan() == {}
        assert list(disk.glob("spool/queue/open/*")) == []


def test_disk_without_inodes_is_told_as_full(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "small", "size=4m,nr_inodes=40") as disk:
        spool = Spool.create(disk / "spool")
        with pytest.raises(StorageError) as told:
            for number in range(100):
                spool.add(entry(number))
        assert told.value.full and "df -i" in str(told.value)
        assert all(spool.read(place) for place in spool.scan().values())


def test_launch_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "small", "size=4m") as disk:
        spool = Spool.create(disk / "spool")
        with pytest.raises(StorageError):
            Launch.create(spool, ["python"])
        assert list(disk.glob("spool/runs/*/*")) == []


# -- writers, and the order of fragments -----------------------------------------------------------------------------


def test_a_log_that_somebody_holds_open_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "run-x.wandb"
    log.touch()
    code = "import sys; f = open(sys.argv[1], 'ab'); print('open', flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    assert not wait_for_writers(log, 0.1)
    holder.communicate("\n", timeout=30)
    assert wait_for_writers(log, 0.0)


def test_fragments_of_a_run_are_ordered_by_who_continues_whom(fragments: Fragments) -> None:
    first, second, third = (fragments.add(shape, "chained") for shape in ("front", "rear", "third"))
    other = fragments.add("tiny", "alone")
    assert [fragments.entry(name).predecessor for name in (first, second, third, other)] == [None, first, second, None]


def test_predecessor_that_the_hook_wrote_down_outranks_every_guess(fragments: Fragments) -> None:
    first, second = fragments.add("front", "run"), fragments.add("rear", "run")
    name = fragments.add("third", "run", seal=False)
    place = fragments.place(name)
    durable.write_json(place.path, replace(fragments.entry(name), predecessor=first).as_json())
    seal_fragment(fragments.spool, place)
    assert fragments.entry(name).predecessor == first != second
    assert manifest_of(fragments, name).predecessor == first


def test_discarded_and_void_fragments_are_nobodys_predecessor(fragments: Fragments) -> None:
    first = fragments.add("front", "run")
    gone = fragments.add("rear", "run")
    empty = fragments.add("rear", "run", damage=lambda log: os.truncate(log, 7))
    fragments.spool.move(fragments.place(gone), State.DISCARDED)
    assert fragments.state(empty) == "void"
    assert fragments.entry(fragments.add("third", "run")).predecessor == first


def test_fragment_of_another_project_is_another_run(fragments: Fragments) -> None:
    fragments.add("front", "run", project="one")
    assert fragments.entry(fragments.add("rear", "run", project="two")).predecessor is None


# -- killed in the middle --------------------------------------------------------------------------------------------

SEAL_AND_DIE = """
import os, signal, sys
from pathlib import Path
from wandb_spool.spool import durable
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State
spool, left = Spool.open(Path(sys.argv[1])), int(sys.argv[2])
def step(name, path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
durable.on_step = step
seal_fragment(spool, next(spool.places(State.OPEN)))
"""


def test_seal_killed_before_any_of_its_steps_is_done_by_the_next_one(fragments: Fragments) -> None:
    spool = fragments.spool
    for count in range(100):
        name = fragments.add("rich", seal=False)
        (fragments.entry(name).run_directory(spool.root) / "files" / "link").symlink_to("model.bin")
        done = subprocess.run([sys.executable, "-c", SEAL_AND_DIE, str(spool.root), str(count)], capture_output=True)
        put_back_abandoned(spool, Observations())
        recover(spool, Observations(), now_s=lambda: 0.0)
        assert fragments.state(name) == "incoming", f"killed before step {count}"
        found, manifest = fragments.entry(name), manifest_of(fragments, name)
        assert manifest.rows_kept == manifest.rows_logged == found.rows and manifest.changed == ()
        if done.returncode == 0:
            assert count > 8, "a seal has more steps than that"
            return
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        fragments.place(name).path.unlink()
        shutil.rmtree(found.launch_directory(spool.root))
    raise AssertionError("the seal never ended")


def test_run_directory_without_an_entry_is_found_and_sealed(fragments: Fragments) -> None:
    """The launcher died before it could write the entry."""
    name = fragments.add("tiny", seal=False)
    found = fragments.entry(name)
    fragments.place(name).path.unlink()
    assert [item.entry for item in recover(fragments.spool, Observations(), now_s=lambda: 0.0)] == [name]
    launch = Launch.at(fragments.spool, found.launch_directory(fragments.spool.root))
    assert open_entry(fragments.spool, launch, found.run_directory(fragments.spool.root)).name == name
    assert clock.seconds(found.created) is not None
