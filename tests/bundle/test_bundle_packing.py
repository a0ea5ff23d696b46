"""What is packed, what is left, and that a crash anywhere loses nothing and is mended by the same command."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wandb_spool.spool import durable
from wandb_spool.spool.bundle_pack import (
    Packed,
    divide,
    mark_packed,
    numbered,
    plan,
    read_index_of,
    verify_bundle,
    write_bundle,
)
from wandb_spool.spool.bundle_receipts import pack_receipts
from wandb_spool.spool.bundle_unpack import take_back, unpack
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .fabric import Fabric, tree
from .machines import Machine
from .opening import members, plain


def _pack(spool: Spool, target: Path) -> Packed:
    entries = [spool.read(place) for place in spool.places(State.INCOMING)]
    packed, left = write_bundle(spool, plan(spool, entries).carried, target)
    assert packed is not None
    assert not left
    return packed


def _unpack(spool: Spool, bundle: Path) -> None:
    with bundle.open("rb") as stream:
        unpack(spool, stream, name=bundle.name, now_s=0.0)


def _runs(root: Path) -> dict[str, bytes]:
    return {path: content for path, content in tree(root).items() if path.startswith("runs/")}


def test_the_same_runs_give_the_same_bytes_wherever_and_whenever_they_are_packed(
    fabric: Fabric, tmp_path: Path
) -> None:
    for _ in range(3):
        fabric.sealed()
    _pack(fabric.spool, tmp_path / "a.tar.zst")
    moved = tmp_path / "elsewhere" / "spool"
    shutil.copytree(fabric.spool.root, moved)
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    copy = Spool.open(moved)
    for place in list(copy.places(State.INCOMING)):
        tried = replace(copy.read(place), attempts=3, reason="rate: slow down", not_before="2026-11-22T00:00:00.000Z")
        copy.move(copy.move(place, State.HELD, tried), State.INCOMING)
    _pack(copy, tmp_path / "b.tar.zst")
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


def test_common_tools_open_a_bundle_and_find_every_byte(fabric: Fabric, tmp_path: Path) -> None:
    long_name = "a very long name " * 8 + "with umlauts äöü.bin"
    fabric.sealed(files={long_name: b"long", "empty": b"", "space and [magic]*.txt": b"x" * 513})
    _pack(fabric.spool, tmp_path / "runs.tar.zst")
    expected = {name: content for name, content in _runs(fabric.spool.root).items() if not name.endswith("reserve")}
    found = {name: content for name, content in members(tmp_path / "runs.tar.zst").items() if name.startswith("runs/")}
    assert found == {name: content for name, content in expected.items() if not name.endswith("alive")}
    with tarfile.open(fileobj=io.BytesIO(plain(tmp_path / "runs.tar.zst"))) as archive:
        assert all((item.mtime, item.uid, item.gid, item.uname) == (0, 0, 0, "") for item in archive.getmembers())
    if shutil.which("tar") is None or shutil.which("zstd") is None:
        pytest.skip("tar and zstd are not installed here; the standard library could open it")
    (tmp_path / "opened").mkdir()
    opening = ["tar", "--zstd", "-xf", str(tmp_path / "runs.tar.zst"), "-C", str(tmp_path / "opened")]
    subprocess.run(opening, check=True)
    assert _runs(tmp_path / "opened") == found


def test_a_file_that_differs_from_its_manifest_is_left_and_told_and_the_others_are_packed(
    cluster: Machine, fabric: Fabric
) -> None:
    good, bad, gone = (fabric.spool.read(fabric.sealed()) for _ in range(3))
    (bad.run_directory(cluster.root) / "files" / "saved.bin").write_bytes(b"tampered with" * 100)
    (gone.run_directory(cluster.root) / "files" / "saved.bin").unlink()
    done = cluster.run("pack", "--out", "runs.tar.zst", code=4)
    assert bad.name.encode() in done.stderr
    assert gone.name.encode() in done.stderr
    assert cluster.states() == {good.name: State.TRANSIT, bad.name: State.INCOMING, gone.name: State.INCOMING}
    index, _ = read_index_of(cluster.home / "runs.tar.zst")
    assert [carried.name for carried in index.fragments] == [good.name]
    assert os.listdir(cluster.home) == ["spool", "runs.tar.zst"] or not list(cluster.home.glob(".*part"))


def test_a_link_in_place_of_a_sealed_file_is_not_followed(cluster: Machine, fabric: Fabric, tmp_path: Path) -> None:
    entry = fabric.spool.read(fabric.sealed())
    path = entry.run_directory(cluster.root) / "files" / "saved.bin"
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    assert b"since the seal" in cluster.run("pack", "--out", "runs.tar.zst", code=4).stderr
    assert cluster.states() == {entry.name: State.INCOMING}


def test_what_is_in_transit_is_neither_packed_nor_pushed_again_until_it_is_released(
    cluster: Machine, fabric: Fabric
) -> None:
    name = fabric.sealed().name
    cluster.run("pack", "--out", "runs.tar.zst")
    assert b"nothing waits" in cluster.run("pack", "--out", "more.tar.zst").stdout
    assert not (cluster.home / "more.tar.zst").exists()
    status = cluster.run("status").stdout
    assert b"transit: 1" in status
    assert b"runs.tar.zst since 20" in status
    assert cluster.run("release", name, code=2).returncode == 2
    assert cluster.run("release", name, "--transit", code=2).stderr  # nobody is there to be asked
    cluster.run("release", "--bundle", "runs.tar.zst", "--yes")
    assert cluster.states() == {name: State.INCOMING}
    cluster.run("pack", "--out", "again.tar.zst")
    assert (cluster.home / "again.tar.zst").read_bytes() == (cluster.home / "runs.tar.zst").read_bytes()


def test_held_runs_are_packed_only_when_they_are_named(cluster: Machine, fabric: Fabric) -> None:
    held, due = fabric.sealed(hold=True).name, fabric.sealed().name
    assert b"held by a person" in cluster.run("pack", "--out", "due.tar.zst").stderr
    assert cluster.states() == {held: State.HELD, due: State.TRANSIT}
    cluster.run("pack", held, "--out", "held.tar.zst")
    assert cluster.states() == {held: State.TRANSIT, due: State.TRANSIT}
    assert b"packed already" in cluster.run("pack", held, "--out", "twice.tar.zst", code=3).stderr


def test_since_and_dry_run_choose_without_touching(cluster: Machine, fabric: Fabric) -> None:
    name = fabric.sealed().name
    before = tree(cluster.root)
    assert name.encode() in cluster.run("pack", "--out", "x.tar.zst", "--since", "1h", "--dry-run").stdout
    assert b"nothing waits" in cluster.run("pack", "--out", "x.tar.zst", "--since", "2999-01-01").stdout
    assert b"no time" in cluster.run("pack", "--out", "x.tar.zst", "--since", "yesterday", code=2).stderr
    assert b"no size" in cluster.run("pack", "--out", "x.tar.zst", "--max-size", "big", code=2).stderr
    assert b"name the bundle" in cluster.run("pack", code=2).stderr
    assert tree(cluster.root) == before
    assert os.listdir(cluster.home) == ["spool"]


def test_max_size_divides_into_bundles_that_arrive_alone_in_any_order(
    cluster: Machine, fabric: Fabric, beyond: Machine
) -> None:
    launch = fabric.launch()
    for _ in range(5):
        fabric.sealed(files={"noise.bin": fabric.random.randbytes(40_000)}, launch=launch)
    large = fabric.sealed(files={"noise.bin": fabric.random.randbytes(200_000)}).name
    done = cluster.run("pack", "--out", "runs.tar.zst", "--max-size", "110kB", code=3)
    assert b"larger" in done.stderr
    bundles = sorted(cluster.home.glob("runs.*.tar.zst"))
    assert [path.name for path in bundles] == [f"runs.{number}.tar.zst" for number in (1, 2, 3)]
    assert all(path.stat().st_size <= 110_000 for path in bundles)
    assert cluster.states()[large] is State.INCOMING
    beyond.run("unpack", *(str(path) for path in reversed(bundles)))
    assert len(beyond.entries(State.INCOMING)) == 5
    arrived, sent = _runs(beyond.root), _runs(cluster.root)
    assert all(sent[path] == content for path, content in arrived.items())
    beyond.run("verify")


def test_a_file_that_is_there_is_never_replaced(cluster: Machine, fabric: Fabric) -> None:
    name = fabric.sealed().name
    (cluster.home / "thesis.txt").write_text("mine")
    assert b"no bundle" in cluster.run("pack", "--out", "thesis.txt", code=2).stderr
    assert (cluster.home / "thesis.txt").read_text() == "mine"
    assert cluster.states() == {name: State.INCOMING}
    cluster.run("pack", "--out", "runs.tar.zst")
    before = (cluster.home / "runs.tar.zst").read_bytes()
    later = fabric.sealed().name
    assert b"choose another --out" in cluster.run("pack", "--out", "runs.tar.zst", code=3).stderr
    assert (cluster.home / "runs.tar.zst").read_bytes() == before
    assert cluster.states() == {name: State.TRANSIT, later: State.INCOMING}


def test_a_pipe_marks_nothing_until_the_bundle_was_read_back(cluster: Machine, fabric: Fabric) -> None:
    name = fabric.sealed().name
    bundle = cluster.run("pack", "--out", "-").stdout
    assert cluster.states() == {name: State.INCOMING}
    cluster.run("pack", "--sent", "-", stdin=bundle[:-5], code=1)
    assert cluster.states() == {name: State.INCOMING}
    cluster.run("pack", "--sent", "-", stdin=bundle)
    assert cluster.states() == {name: State.TRANSIT}
    cluster.run("release", name, "--transit", "--yes")
    assert cluster.run("pack", "--out", "-", "--trust-pipe").stdout == bundle
    assert cluster.states() == {name: State.TRANSIT}


def _survives_kills(operation: Callable[[], object], check: Callable[[int], None]) -> int:
    """Kill the operation at each of its durable steps in turn; `check` mends and judges. Returns their number."""
    for number in range(1, 200):
        child = os.fork()
        if child == 0:
            _die_at(number)
            try:
                operation()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child of this test must never go on as the test
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 9)
        if code == 0:
            return number
        check(number)
    raise AssertionError("it never came to its end")


def _die_at(number: int) -> None:
    left = number

    def step(name: str, path: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(9)

    durable.on_step = step


def _pack_and_mark(spool: Spool, target: Path) -> None:
    if target.exists():
        with target.open("rb") as stream:
            index, digest = verify_bundle(stream)
        packed = Packed(target, digest, index, 0)
    else:
        packed = _pack(spool, target)
    mark_packed(spool, packed, now_s=0.0)


def test_pack_killed_at_any_step_is_completed_by_the_same_command(cluster: Machine, fabric: Fabric) -> None:
    for _ in range(2):
        fabric.sealed()
    template = cluster.home / "template"
    shutil.copytree(cluster.root, template)
    target = cluster.home / "runs.tar.zst"
    expected: list[bytes] = []

    def check(number: int) -> None:
        spool = Spool.open(cluster.root)
        states = {place.state for place in spool.scan().values()}
        assert states <= {State.INCOMING, State.TRANSIT, State.ACTIVE}
        if states != {State.INCOMING}:
            assert target.exists(), "an entry moved before its bundle was there"
        for place in list(spool.places(State.ACTIVE)):
            spool.put_back(place)
        if number % 3:
            _pack_and_mark(spool, target)
        else:
            cluster.run("pack", "--out", "runs.tar.zst")
        assert {place.state for place in spool.scan().values()} == {State.TRANSIT}
        assert not list(cluster.home.glob(".*"))
        expected.append(target.read_bytes())
        target.unlink()
        shutil.rmtree(cluster.root)
        shutil.copytree(template, cluster.root)

    steps = _survives_kills(lambda: _pack_and_mark(Spool.open(cluster.root), target), check)
    assert steps > 10
    assert set(expected) == {target.read_bytes()}


def test_unpack_killed_at_any_step_is_completed_by_unpacking_again(
    cluster: Machine, fabric: Fabric, beyond: Machine
) -> None:
    launch = fabric.launch()
    (launch.paths.staged / "artifact").write_bytes(b"staged")
    for _ in range(2):
        fabric.sealed(launch=launch)
    bundle = cluster.home / "runs.tar.zst"
    packed = _pack(fabric.spool, bundle)
    expected = {member.path for member in packed.index.stored()}
    Spool.create(beyond.root)

    def check(number: int) -> None:
        spool = Spool.open(beyond.root)
        for place in spool.scan().values():
            if place.state is State.INCOMING:  # what a syncer may take is whole
                assert spool.read(place).run_directory(spool.root).is_dir()
        for place in list(spool.places(State.ACTIVE)):
            spool.put_back(place)
        _unpack(spool, bundle)
        assert {place.state for place in spool.scan().values()} == {State.INCOMING}
        assert set(_runs(beyond.root)) == expected
        assert not list(beyond.root.glob(".unpack*"))
        shutil.rmtree(beyond.root)
        Spool.create(beyond.root)

    assert _survives_kills(lambda: _unpack(Spool.open(beyond.root), bundle), check) > 10
    assert set(_runs(beyond.root)) == expected


def test_unpacking_twice_is_unpacking_once(cluster: Machine, fabric: Fabric, beyond: Machine) -> None:
    fabric.sealed()
    cluster.run("pack", "--out", "runs.tar.zst")
    beyond.run("unpack", str(cluster.home / "runs.tar.zst"))
    before = tree(beyond.root)
    assert b"here already" in beyond.run("unpack", str(cluster.home / "runs.tar.zst")).stdout
    assert tree(beyond.root) == before


def test_a_fragment_that_clashes_with_what_is_here_is_left_and_the_others_arrive(
    cluster: Machine, fabric: Fabric, beyond: Machine
) -> None:
    clashing, fine = fabric.spool.read(fabric.sealed()), fabric.spool.read(fabric.sealed())
    cluster.run("pack", "--out", "runs.tar.zst")
    Spool.create(beyond.root)
    directory = clashing.run_directory(beyond.root)
    directory.mkdir(parents=True)
    (directory / "mine").write_text("not yours")
    done = beyond.run("unpack", str(cluster.home / "runs.tar.zst"), code=3)
    assert clashing.name.encode() in done.stderr
    assert beyond.states() == {fine.name: State.INCOMING}
    assert os.listdir(directory) == ["mine"]


def test_a_link_where_a_launch_belongs_is_not_followed(
    cluster: Machine, fabric: Fabric, beyond: Machine, tmp_path: Path
) -> None:
    entry = fabric.spool.read(fabric.sealed())
    cluster.run("pack", "--out", "runs.tar.zst")
    Spool.create(beyond.root)
    (tmp_path / "trap").mkdir()
    launch = entry.launch_directory(beyond.root)
    launch.parent.mkdir(parents=True)
    launch.symlink_to(tmp_path / "trap")
    assert b"is a link" in beyond.run("unpack", str(cluster.home / "runs.tar.zst"), code=3).stderr
    assert not os.listdir(tmp_path / "trap")
    assert beyond.states() == {}


def _delivered_beyond(cluster: Machine, fabric: Fabric, beyond: Machine) -> tuple[str, Path]:
    """A fragment that was carried and delivered there, and the bundle with its receipt."""
    name = fabric.sealed().name
    cluster.run("pack", "--out", "runs.tar.zst")
    beyond.run("unpack", str(cluster.home / "runs.tar.zst"))
    spool = beyond.spool()
    owned = spool.claim(next(iter(spool.places(State.INCOMING))))
    entry = spool.read(owned)
    target = {"destination": "default", "base_url": "https://w", "entity": "e", "project": "p", "run_id": "r"}
    receipt = {"entry": entry.name, "manifest_sha256": entry.manifest_sha256, "target": target, "level": "rows"}
    delivered = replace(entry, receipt={**receipt, "at": "2026-11-21T05:00:00.000Z", "rows_delivered": 3})
    spool.move(owned, State.DELIVERED, delivered)
    beyond.run("pack", "--receipts", "--out", "receipts.tar.zst")
    return name, beyond.home / "receipts.tar.zst"


def test_a_receipt_is_accepted_once_and_only_where_it_belongs(
    cluster: Machine, fabric: Fabric, beyond: Machine, tmp_path: Path
) -> None:
    name, receipts = _delivered_beyond(cluster, fabric, beyond)
    stranger = Machine(tmp_path / "stranger")
    stranger.home.mkdir()
    Spool.create(stranger.root)
    assert b"1 of other spools" in stranger.run("unpack", str(receipts)).stdout
    cluster.run("unpack", str(receipts))
    assert cluster.states() == {name: State.DELIVERED}
    before = tree(cluster.root)
    cluster.run("unpack", str(receipts))
    assert tree(cluster.root) == before
    assert sum(path.startswith("receipts/") for path in before) == 1


def test_a_receipt_for_another_seal_proves_nothing(cluster: Machine, fabric: Fabric, beyond: Machine) -> None:
    name, _ = _delivered_beyond(cluster, fabric, beyond)
    spool = beyond.spool()
    entry = next(spool.read(place) for place in spool.places(State.DELIVERED))
    wrong = hashlib.sha256(b"another").hexdigest()
    assert entry.receipt is not None
    forged = replace(entry, manifest_sha256=wrong, receipt={**entry.receipt, "manifest_sha256": wrong})
    pack_receipts(spool, [forged], beyond.home / "forged.tar.zst")
    assert b"another seal" in cluster.run("unpack", str(beyond.home / "forged.tar.zst"), code=3).stderr
    assert cluster.states() == {name: State.TRANSIT}


def test_a_receipt_delivers_what_was_released_meanwhile_and_leaves_what_was_discarded(
    cluster: Machine, fabric: Fabric, beyond: Machine
) -> None:
    name, receipts = _delivered_beyond(cluster, fabric, beyond)
    cluster.run("discard", name, "--yes")
    assert b"discarded here" in cluster.run("unpack", str(receipts), code=3).stderr
    cluster.run("discard", name, "--restore")
    cluster.run("unpack", str(receipts))
    assert cluster.states() == {name: State.DELIVERED}


def test_numbers_and_divisions_are_plain(fabric: Fabric) -> None:
    assert numbered(Path("/m/runs.tar.zst"), 2) == Path("/m/runs.2.tar.zst")
    assert numbered(Path("runs"), 1) == Path("runs.1")
    assert divide([], 10) == ([], [])


def test_a_place_that_takes_no_bundle_is_told_in_one_line_and_nothing_is_marked(
    cluster: Machine, fabric: Fabric
) -> None:
    name = fabric.sealed().name
    (cluster.home / "file").write_text("x")
    (cluster.home / "directory").mkdir()
    for out, code in (("missing/x.tar.zst", 1), ("file/x.tar.zst", 1), ("directory", 2), ("/dev/full/x", 1)):
        done = cluster.run("pack", "--out", out, code=code)
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert b"--spool" not in done.stderr
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "wandb_spool", "pack", "--out", "-", "--trust-pipe"]
        piped = subprocess.run(
            command, env=cluster.environment(), cwd=cluster.home, stdout=full, stderr=subprocess.PIPE
        )
    assert piped.returncode == 1
    assert b"nothing was marked" in piped.stderr
    assert cluster.states() == {name: State.INCOMING}
    assert not list(cluster.home.rglob("*.part"))


def test_a_spool_that_somebody_else_begins_to_use_is_not_taken_back(tmp_path: Path, fabric: Fabric) -> None:
    """Two `unpack` into one new directory, and the bundle of one of them is refused."""
    for used in (lambda spool: Fabric(spool).sealed(), lambda spool: (spool.root / "runs" / "mine").write_text("x")):
        spool = Spool.create(tmp_path / "new" / "spool")
        used(spool)
        before = tree(spool.root)
        take_back(spool, with_root=True)
        assert tree(spool.root) == before
        shutil.rmtree(spool.root)
    spool = Spool.create(tmp_path / "new" / "spool")
    with spool.paths.marker.open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        take_back(spool, with_root=True)
        assert spool.paths.queue(State.INCOMING).is_dir()
    take_back(spool, with_root=True)
    assert not spool.root.exists()
    take_back(Spool.create(tmp_path / "new"), with_root=False)
    assert list((tmp_path / "new").iterdir()) == []


def test_names_that_people_give_their_files_arrive(cluster: Machine, fabric: Fabric, beyond: Machine) -> None:
    deep = "/".join(["d" * 60] * 20)
    names = [
        "a b",
        "ü\u2028\U0001f600",
        "n" * 255,
        f"{deep}/x",
        "-rf",
        "*?[",
        "CON",
        "a\\b",
        "Case",
        "case",
        "%2e%2e",
        "~",
    ]
    fabric.sealed(files={name: name.encode() for name in names} | {"empty": b"", "zeros": bytes(3 << 20)})
    cluster.run("pack", "--out", "runs.tar.zst")
    assert (cluster.home / "runs.tar.zst").stat().st_size < 20_000
    beyond.run("unpack", str(cluster.home / "runs.tar.zst"))
    assert {path: content for path, content in _runs(beyond.root).items() if "/files/" in path} == {
        path: content for path, content in _runs(cluster.root).items() if "/files/" in path
    }
