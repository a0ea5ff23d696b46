"""A bundle that was cut, altered or made to escape is refused in one line and leaves no trace."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.spool import bundle_tar
from wandb_spool.spool.bundle_index import MAX_INDEX_BYTES, BundleError, Index, Kind, Member
from wandb_spool.spool.bundle_pack import naming, plan, write_bundle
from wandb_spool.spool.bundle_stream import BundleWriter
from wandb_spool.spool.bundle_unpack import unpack
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .fabric import Fabric, tree
from .machines import Machine
from .opening import boundaries, compressed, foreign, made, member, members, plain, sealed_again, sha256

Refuse = Callable[[bytes], "str | None"]


@pytest.fixture
def bundle(fabric: Fabric, tmp_path: Path) -> Path:
    launch = fabric.launch()
    for number in range(2):
        fabric.sealed(launch=launch, files={f"file {number}.bin": fabric.random.randbytes(2000), "deep/er/ü.txt": b"x"})
    target = tmp_path / "runs.tar.zst"
    entries = [fabric.spool.read(place) for place in fabric.spool.places(State.INCOMING)]
    write_bundle(fabric.spool, plan(fabric.spool, entries).carried, target)
    return target


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """None when a bundle was refused without a trace; else what happened."""
    spool = Spool.create(tmp_path / "target")
    before = tree(spool.root), sorted(os.listdir(spool.root))
    outside = sorted(os.listdir(tmp_path))

    def attempt(content: bytes) -> str | None:
        try:
            with naming("carried"):
                unpack(spool, io.BytesIO(content), name="carried", now_s=0.0)
        except BundleError as error:
            if "\n" in str(error):
                return f"more than one line: {error}"
        else:
            return "taken over"
        after = tree(spool.root), sorted(os.listdir(spool.root))
        if after != before or sorted(os.listdir(tmp_path)) != outside:
            return "it left a trace"
        return None

    return attempt


def _none_taken(attempts: dict[str, bytes], refuse: Refuse) -> None:
    taken = {name: what for name, content in attempts.items() if (what := refuse(content)) is not None}
    assert not taken


def test_a_bundle_that_is_untouched_is_taken_over(bundle: Path, refuse: Refuse) -> None:
    assert refuse(bundle.read_bytes()) == "taken over"


def test_a_bundle_cut_anywhere_is_refused(bundle: Path, refuse: Refuse) -> None:
    content = bundle.read_bytes()
    places = {*range(0, len(content), max(1, len(content) // 60)), *range(len(content) - 9, len(content))}
    _none_taken({f"cut at {place}": content[:place] for place in sorted(places)}, refuse)


def test_an_archive_cut_at_every_member_and_in_between_is_refused(bundle: Path, refuse: Refuse) -> None:
    archive = plain(bundle)
    starts = boundaries(archive)
    places = {*starts, *(place + 1 for place in starts), *(place - 1 for place in starts if place)}
    places |= {(a + b) // 2 for a, b in itertools.pairwise(starts)}
    places |= {len(archive) - 1, len(archive) - 512, len(archive) - 1024}
    _none_taken({f"cut at {place}": compressed(archive[:place]) for place in sorted(places)}, refuse)


def test_a_bit_flipped_in_any_member_header_or_padding_is_refused(bundle: Path, refuse: Refuse) -> None:
    archive = plain(bundle)
    starts = boundaries(archive)
    places = {*starts, *(place + 130 for place in starts), *(place - 1 for place in starts if place)}
    places |= {(a + b) // 2 for a, b in itertools.pairwise(starts)} | {len(archive) - 1, len(archive) - 600}
    attempts = {}
    for place in sorted(place for place in places if place < len(archive)):
        altered = bytearray(archive)
        altered[place] ^= 1 << place % 8
        attempts[f"flipped at {place}"] = compressed(bytes(altered))
    _none_taken(attempts, refuse)


def test_a_bit_flipped_in_the_compressed_file_never_changes_what_arrives(
    bundle: Path, tmp_path: Path, refuse: Refuse
) -> None:
    content = bundle.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 80)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        what = refuse(bytes(altered))
        assert what in (None, "taken over"), place
        if what is not None:  # a bit without a meaning, such as the size of the window
            spool = Spool.open(tmp_path / "target")
            assert {path: data for path, data in tree(spool.root).items() if path.startswith("runs/")} == {
                path: data for path, data in members(bundle).items() if path.startswith("runs/")
            }
            return


def test_what_is_appended_is_refused(bundle: Path, refuse: Refuse) -> None:
    content, archive = bundle.read_bytes(), plain(bundle)
    _none_taken(
        {
            "a byte": content + b"\0",
            "another bundle": content + content,
            "an empty frame": content + compressed(b""[:0]) + compressed(b"x"),
            "a skippable frame": content + b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
            "a member behind the last": compressed(archive[:-1024] + member("more", b"x") + bundle_tar.END),
            "a member behind the end": compressed(archive + member("more", b"x") + bundle_tar.END),
            "zeros behind the end": compressed(archive + bytes(512)),
        },
        refuse,
    )


def test_hostile_members_are_refused(bundle: Path, refuse: Refuse, tmp_path: Path) -> None:
    def link(kind: bytes, name: str, to: str) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, to
        return foreign(info)

    def of_type(kind: bytes) -> bytes:
        info = tarfile.TarInfo("runs/device")
        info.type = kind
        return foreign(info)

    archive = plain(bundle)
    contents = members(bundle)
    index = contents["index.json"]
    start = boundaries(archive)[6]  # the first member behind head and index
    real = archive[start:-1024]
    escaping = str(tmp_path / "escaped")
    first = {
        "a link": link(tarfile.SYMTYPE, "runs", escaping),
        "a hard link": link(tarfile.LNKTYPE, "runs/x", "/etc/passwd"),
        "an absolute name": foreign(tarfile.TarInfo(escaping), b"x"),
        "dot dot": foreign(tarfile.TarInfo("../escaped"), b"x"),
        "a character device": of_type(tarfile.CHRTYPE),
        "a block device": of_type(tarfile.BLKTYPE),
        "a FIFO": of_type(tarfile.FIFOTYPE),
        "a directory": of_type(tarfile.DIRTYPE),
        "a GNU sparse file": of_type(tarfile.GNUTYPE_SPARSE),
        "a GNU long name": of_type(tarfile.GNUTYPE_LONGNAME),
        "a global header": of_type(tarfile.XGLTYPE),
    }
    attempts = {name: made(index, hostile + real) for name, hostile in first.items()}
    attempts |= {f"{name}, last": made(index, real + hostile) for name, hostile in first.items()}
    attempts["a member twice"] = made(index, real + real[: boundaries(archive)[9] - start])
    attempts["members in another order"] = made(
        index, b"".join(member(n, c) for n, c in reversed(contents.items()) if n.startswith("runs"))
    )
    _none_taken(attempts, refuse)
    assert not Path(escaping).exists()


def _moved(path: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    """The last member of the first fragment under another name."""

    def change(index: dict[str, Any], contents: dict[str, bytes]) -> None:
        item = index["fragments"][0]["members"][-1]
        old, item["path"] = item["path"], path.replace("LAUNCH", index["fragments"][0]["path"].rpartition("/wandb/")[0])
        items = [(item["path"] if name == old else name, content) for name, content in contents.items()]
        contents.clear()
        contents.update(items)

    return change


def test_an_index_that_leads_out_or_clashes_is_refused(bundle: Path, refuse: Refuse, tmp_path: Path) -> None:
    fragment = json.loads(members(bundle)["index.json"])["fragments"][0]["path"]
    paths = [
        "/etc/escaped", "../escaped", "runs/../../escaped", "LAUNCH/../escaped", "LAUNCH/data/../../../x", "spool.json",
        "queue/incoming/x.json", "LAUNCH/wandb/escaped", "LAUNCH/data", "LAUNCH/data/", "LAUNCH/data//x",
        "LAUNCH/data/./x", "LAUNCH/data/a\nb", "LAUNCH/data/\x7f", "LAUNCH/data/.tmp-x", "LAUNCH/LAUNCH.json",
        "LAUNCH/Launch.json", f"{fragment}/Manifest.JSON", f"{fragment}/manifest.json", f"{fragment}/manifest.json/x",
        f"{fragment}/" + "d/" * 3000 + "x", f"{fragment}/" + "n" * 300, "", ".", "LAUNCH", fragment,
        "LAUNCH/data/\ud800", "runs/202611/other/data/x", "LAUNCH/hook/x",
    ]  # fmt: skip
    taken = {}
    for path in paths:
        try:
            content = sealed_again(bundle, _moved(path))
        except UnicodeEncodeError:
            continue
        what = refuse(content)
        if what is not None:
            taken[path] = what
    assert not taken


def test_an_index_whose_parts_contradict_each_other_is_refused(bundle: Path, refuse: Refuse) -> None:
    def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
        def apply(index: dict[str, Any], contents: dict[str, bytes]) -> None:
            change(index)

        return sealed_again(bundle, apply)

    def first(index: dict[str, Any]) -> dict[str, Any]:
        found = index["fragments"][0]
        assert isinstance(found, dict)
        return found

    other = "20261121T045000-n1-0a1b2c3d.offline-run-20261121_045001-abcd1234"
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "a newer format": lambda i: i.update(format=2),
        "an unknown kind": lambda i: i.update(kind="more"),
        "no spool": lambda i: i.pop("spool_id"),
        "receipts with runs": lambda i: i.update(kind="receipts"),
        "a loose member": lambda i: i["members"].append({"path": "x", "size_bytes": 0, "sha256": sha256(b"")}),
        "no entries": lambda i: first(i).update(entries=[]),
        "an entry twice": lambda i: first(i).update(entries=first(i)["entries"] * 2),
        "a foreign entry": lambda i: first(i)["entries"][0].update(entry=other),
        "an entry elsewhere": lambda i: first(i)["entries"][0].update(path="runs/x"),
        "another manifest in the entry": lambda i: first(i)["entries"][0].update(manifest_sha256="0" * 64),
        "another manifest": lambda i: first(i).update(manifest_sha256="0" * 64),
        "a fragment twice": lambda i: i["fragments"].append(first(i)),
        "a member twice": lambda i: first(i)["members"].append(first(i)["members"][-1]),
        "a member more": lambda i: first(i)["members"].append(
            {"path": first(i)["path"] + "/files/more", "size_bytes": 0, "sha256": sha256(b"")}
        ),
        "a member less": lambda i: first(i)["members"].pop(),
        "a smaller size": lambda i: first(i)["members"][-1].update(size_bytes=0),
        "a size below zero": lambda i: first(i)["members"][-1].update(size_bytes=-1),
        "a size that is true": lambda i: first(i)["members"][-1].update(size_bytes=True),
        "an endless size": lambda i: first(i)["members"][-1].update(size_bytes=1 << 70),
        "another digest": lambda i: first(i)["members"][-1].update(sha256="0" * 64),
        "members of another fragment": lambda i: i["fragments"][1].update(members=first(i)["members"]),
        "one file with two contents": lambda i: i["fragments"][1]["members"][0].update(size_bytes=1),
    }
    _none_taken({name: changed(change) for name, change in changes.items()}, refuse)


def test_a_file_that_the_manifest_does_not_list_is_refused(bundle: Path, refuse: Refuse) -> None:
    def smuggle(index: dict[str, Any], contents: dict[str, bytes]) -> None:
        fragment = index["fragments"][-1]
        path = fragment["path"] + "/files/smuggled"
        fragment["members"].append({"path": path, "size_bytes": 1, "sha256": sha256(b"x")})
        contents[path] = b"x"

    _none_taken({"smuggled": sealed_again(bundle, smuggle)}, refuse)


def test_bombs_are_refused_before_they_take_memory_or_disk(
    bundle: Path, refuse: Refuse, tmp_path: Path, fabric: Fabric
) -> None:
    import zstandard

    index = members(bundle)["index.json"]
    zeros = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20)) * 40
    huge_head = b'{"format":1,"index_bytes":%d,"index_sha256":"%s"}\n' % (MAX_INDEX_BYTES + 1, b"0" * 64)
    attempts = {
        "nothing but zeros": zeros,
        "zeros behind the index": made(index, b"", end=b"")[:-4] + zeros,
        "more bytes than the index says": made(index, bytes(32 << 20)),
        "a huge index": compressed(member("bundle.json", huge_head)),
        "a huge head": compressed(bundle_tar.header("bundle.json", 1 << 30)),
        "nested lists": made(b"[" * 200_000, b""),
        "a window of gigabytes": b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(64),
        "no zstd": b"PK\x03\x04" + bytes(100),
        "nothing": b"",
    }
    _none_taken(attempts, refuse)


def test_a_bundle_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path: Path, bundle: Path) -> None:
    def grow(index: dict[str, Any], contents: dict[str, bytes]) -> None:
        index["fragments"][0]["members"][-1]["size_bytes"] = 1 << 55

    spool = Spool.create(tmp_path / "target")
    before = tree(spool.root)
    with pytest.raises(SpoolError, match="nothing was unpacked"):
        unpack(spool, io.BytesIO(sealed_again(bundle, grow)), name="carried", now_s=0.0)
    assert tree(spool.root) == before


def test_a_large_bundle_cut_at_every_megabyte_is_refused(tmp_path: Path, refuse: Refuse) -> None:
    content = os.urandom(6 << 20)
    receipts = Member("receipts.jsonl", len(content), sha256(content))
    written = io.BytesIO()

    def sink(data: bytes) -> None:
        written.write(data)

    writer = BundleWriter(sink, Index(Kind.RECEIPTS, "1" * 32, (), (receipts,)))
    writer.add(receipts, iter([content]))
    writer.finish()
    whole = written.getvalue()
    _none_taken({f"cut at {place}": whole[:place] for place in range(1 << 20, len(whole), 1 << 20)}, refuse)


def test_a_refused_bundle_is_one_line_and_exit_code_1_and_not_even_a_new_spool_stays(
    bundle: Path, beyond: Machine
) -> None:
    altered = beyond.home / "altered.tar.zst"
    altered.write_bytes(bundle.read_bytes()[:-20])
    done = beyond.run("unpack", "altered.tar.zst", code=1)
    assert done.stderr.count(b"\n") == 1
    assert b"cut" in done.stderr
    assert not beyond.root.exists()
    assert b"no such bundle" in beyond.run("unpack", "missing.tar.zst", code=2).stderr
    assert not beyond.root.exists()


def test_a_digest_that_was_brought_another_way_must_fit(bundle: Path, beyond: Machine) -> None:
    digest = json.loads(members(bundle)["bundle.json"])["index_sha256"]
    beyond.run("unpack", str(bundle), "--digest", "0" * 64, code=1)
    assert not beyond.root.exists()
    beyond.run("unpack", str(bundle), "--digest", digest)
    assert set(beyond.states().values()) == {State.INCOMING}
