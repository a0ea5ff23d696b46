"""Whatever lies in an entry, a manifest, a receipt or a sign of life: an answer or one of our errors, never another."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from delivery.fragments import Fragments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wandb_spool.spool import alive, durable, receipts
from wandb_spool.spool.entry import Entry, read_entry
from wandb_spool.spool.errors import DamagedError, SpoolFormatError
from wandb_spool.spool.manifest import MANIFEST_NAME, Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .entries import entry, put

OURS = (DamagedError, SpoolFormatError)
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["unknown", "../../etc", "/abs", "\ud800", "\x00", "9" * 5000, "202611", 1 << 80, 1e308, -1])
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def mutated(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The body with up to four of its values, at any depth of two, replaced or gone."""

    def change(changes: list[tuple[str, Any, bool]]) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(body))
        for key, value, gone in changes:
            outer, _, inner = key.partition("/")
            place = changed.get(outer) if inner else changed
            if not isinstance(place, dict):
                continue
            if gone:
                place.pop(inner or outer, None)
            else:
                place[inner or outer] = value
        return changed

    keys = [*body, *(f"{key}/{inner}" for key, value in body.items() if isinstance(value, dict) for inner in value)]
    return st.lists(st.tuples(st.sampled_from(keys), anything, st.booleans()), min_size=1, max_size=4).map(change)


def rich_entry() -> dict[str, Any]:
    body = entry().as_json()
    target = {"destination": "default", "base_url": "https://x", "entity": "e", "project": "p", "run_id": "r"}
    writer = {"host": "n1", "boot_id": "b", "pid_ns": "p", "pid": 7, "start_ticks": 9, "uid": 0}
    replay = {"destination": None, "entity": "e", "project": None, "run_id": "r"}
    return {
        **body,
        "target": target,
        "writer": writer,
        "replay": replay,
        "history": [{"to": "held"}],
        "new": {"k": [1]},
    }


@QUICK
@given(body=mutated(rich_entry()))
def test_any_entry_is_read_and_written_again_or_told_to_be_damaged(tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    try:
        found = read_entry(path, entry().name)
    except OURS as error:
        assert str(path) in str(error) or "format" in str(error)
        return
    durable.write_json(path, found.as_json())
    assert read_entry(path, entry().name) == found


@QUICK
@given(content=st.binary(max_size=200))
def test_no_bytes_in_place_of_an_entry_or_a_manifest_raise_anything_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(OURS):
        read_entry(tmp_path / MANIFEST_NAME, entry().name)
    with pytest.raises(OURS):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b'"text"', b"null", b"\xff", b"", b'{"format": NaN}']
)
def test_what_is_no_object_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        read_entry(path, entry().name)
    with pytest.raises(DamagedError):
        read_manifest(tmp_path)


def test_a_directory_or_a_pipe_in_place_of_a_file_is_damage_and_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "directory" / MANIFEST_NAME).mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST_NAME)
    for name in ("directory", "pipe"):
        with pytest.raises(DamagedError):
            read_entry(tmp_path / name / MANIFEST_NAME, entry().name)
        with pytest.raises(DamagedError):
            read_manifest(tmp_path / name)


def test_keys_of_a_later_version_are_kept_by_every_move(spool: Spool) -> None:
    place = put(spool, State.INCOMING, extra={"later": {"deep": [1, "ü"]}})
    for state in (State.HELD, State.INCOMING, State.TRANSIT):
        place = spool.move(place, state)
    assert json.loads(place.path.read_text())["later"] == {"deep": [1, "ü"]}


def test_greater_format_is_refused_and_left_alone(spool: Spool) -> None:
    place = put(spool, State.INCOMING)
    body = {**json.loads(place.path.read_text()), "format": 2}
    place.path.write_text(json.dumps(body))
    with pytest.raises(SpoolFormatError):
        spool.move(place, State.HELD)
    assert json.loads(place.path.read_text()) == body
    (spool.root / "spool.json").write_text(json.dumps({"format": 2, "spool_id": "0" * 32}))
    with pytest.raises(SpoolFormatError) as told:
        Spool.open(spool.root)
    assert "newer" in str(told.value)


@pytest.mark.parametrize("name", ["nodot", "a.b", "x.run-", "..run-1", "a/b.run-20261121_045001-x", "l.offline-run-~t"])
def test_name_that_is_no_entrys_is_damage(tmp_path: Path, name: str) -> None:
    durable.write_json(tmp_path / "entry.json", entry().as_json())
    with pytest.raises(DamagedError):
        read_entry(tmp_path / "entry.json", name)


def test_text_that_is_no_utf8_goes_to_disk_and_back(tmp_path: Path) -> None:
    """An argument of the command line with odd bytes."""
    command = b"train.py --name \xff\xfe".decode("utf-8", "surrogateescape")
    path = tmp_path / "entry.json"
    durable.write_json(path, entry(command=command).as_json())
    assert path.read_bytes().decode("utf-8")
    assert read_entry(path, entry().name).command == command


# -- manifests -------------------------------------------------------------------------------------------------------


def sealed(fragments: Fragments, shape: str = "tiny") -> tuple[Path, Entry]:
    found = fragments.entry(fragments.add(shape))
    return found.run_directory(fragments.spool.root), found


def test_any_manifest_is_read_or_told_to_be_damaged(fragments: Fragments) -> None:
    directory, _ = sealed(fragments, "rich")
    body = json.loads((directory / MANIFEST_NAME).read_text())

    @QUICK
    @given(changed=mutated(body))
    def attack(changed: dict[str, Any]) -> None:
        (directory / MANIFEST_NAME).write_text(json.dumps(changed))
        try:
            found, _ = read_manifest(directory)
        except OURS:
            return
        assert all(".." not in item.path and not item.path.startswith("/") for item in found.files)
        durable.encode_json(found.as_json())

    attack()


def test_every_bit_of_a_manifest_counts(fragments: Fragments) -> None:
    directory, found = sealed(fragments)
    path = directory / MANIFEST_NAME
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.manifest_sha256
    with path.open("r+b", buffering=0) as stream:
        for position in range(len(content) * 8):
            byte = content[position // 8]
            os.pwrite(stream.fileno(), bytes([byte ^ 1 << position % 8]), position // 8)
            assert not believed(directory, found), f"bit {position}"
            os.pwrite(stream.fileno(), bytes([byte]), position // 8)
    assert believed(directory, found)


def believed(directory: Path, found: Entry) -> bool:
    try:
        return read_manifest(directory)[1] == found.manifest_sha256
    except OURS:
        return False


def test_manifest_is_the_documented_json(fragments: Fragments) -> None:
    directory, _ = sealed(fragments, "rich")
    body = json.loads((directory / MANIFEST_NAME).read_text())
    documented = {
        "format", "spool_id", "launch", "fragment", "run_id", "entity", "project", "name", "group", "job_type",
        "predecessor", "started", "sealed", "sealed_on", "provisional", "writer", "hook", "log", "rows_logged",
        "rows_kept", "rows_lost", "calls_refused", "first_step", "last_step", "exit_code", "exit_known_from",
        "process_exit_code", "wandb_version", "python_version", "base_url", "overridden", "alerts", "files",
        "artifacts", "changed",
    }  # fmt: skip
    assert set(body) == documented
    assert set(body["log"]) == {"path", "ending", "good_bytes", "records", "damage"}
    assert all(set(item) == {"path", "size_bytes", "sha256", "kind", "source"} for item in body["files"])
    assert {item["kind"] for item in body["files"]} <= {"log", "file", "staged", "debug"}


def test_manifest_survives_its_own_json(fragments: Fragments) -> None:
    directory, _ = sealed(fragments, "rich")
    found, digest = read_manifest(directory)
    again = durable.encode_json(found.as_json())
    assert hashlib.sha256(again).hexdigest() == digest
    assert isinstance(found, Manifest) and found.size_bytes == sum(item.size_bytes for item in found.files)


# -- receipts and signs of life --------------------------------------------------------------------------------------


def test_receipt_torn_by_a_crash_spoils_only_itself(spool: Spool) -> None:
    for number in range(3):
        receipts.append_receipt(spool, {"entry": f"e{number}"}, now_s=0)
        (path,) = spool.paths.receipts.glob("*/*.jsonl")
        with path.open("ab") as stream:
            stream.write(b'{"entry": "torn')
    assert [found["entry"] for found in receipts.read_receipts(spool)] == ["e0", "e1", "e2"]


@QUICK
@given(content=st.binary(max_size=300))
def test_no_bytes_in_place_of_receipts_hide_the_next_one(tmp_path: Path, content: bytes) -> None:
    spool = Spool.create(tmp_path / "some-spool")
    receipts.append_receipt(spool, {"entry": "first"}, now_s=0)
    (path,) = spool.paths.receipts.glob("*/*.jsonl")
    path.write_bytes(content)
    receipts.append_receipt(spool, {"entry": "next"}, now_s=0)
    assert list(receipts.read_receipts(spool))[-1]["entry"] == "next"


@QUICK
@given(
    numbers=st.tuples(*[st.integers(0, 10**12 - 1)] * 3),
    step=st.integers(-1, 10**18),
    phase=st.sampled_from(["running", "finished", "failed", "continued"]),
    code=st.integers(-1, 255),
    pid=st.integers(0, 1 << 22),
)
def test_sign_of_life_says_what_was_written(
    numbers: tuple[int, int, int], step: int, phase: str, code: int, pid: int
) -> None:
    sign = alive.Alive(*numbers, step, phase, code, pid)
    line = sign.encode()
    assert len(line) == alive.SIZE_BYTES and line.endswith(b"\n")
    assert alive.decode(line) == sign


def test_no_flipped_bit_of_a_sign_of_life_is_believed() -> None:
    sign = alive.Alive(5, 7, 0, 6, "running", -1, 4711)
    line = sign.encode()
    for position in range(len(line.rstrip()) * 8):
        flipped = bytearray(line)
        flipped[position // 8] ^= 1 << position % 8
        assert alive.decode(bytes(flipped)) is None, f"bit {position}"


@QUICK
@given(content=st.binary(max_size=300))
def test_any_bytes_in_place_of_a_sign_of_life_are_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "alive").write_bytes(content)
    assert alive.read(tmp_path) is None


def test_pipe_or_directory_in_place_of_a_sign_of_life_is_unknown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    assert alive.read(tmp_path) is None
    (tmp_path / "alive").unlink()
    (tmp_path / "alive").mkdir()
    assert alive.read(tmp_path) is None
