"""The parser of the index says yes or `BundleError`, whatever it is given, and what it takes can't lead out."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wandb_spool.spool.bundle_index import BundleError, Index, parse_head, parse_index
from wandb_spool.spool.bundle_tar import BLOCK_BYTES, header

LAUNCH = "20261121T045000-n1-0a1b2c3d"
FRAGMENT = "offline-run-20261121_045001-abcd1234"
PATH = f"runs/202611/{LAUNCH}/wandb/{FRAGMENT}"
DIGEST = "ab" * 32

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_paths = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="./aA\\\0\n", max_size=12).map(lambda tail: f"{PATH}/{tail}"),
    st.text(alphabet="./ab", max_size=12).map(lambda tail: f"runs/202611/{LAUNCH}/data/{tail}"),
)


def _index() -> dict[str, Any]:
    entry = {
        "entry": f"{LAUNCH}.{FRAGMENT}", "launch": LAUNCH, "fragment": FRAGMENT, "path": PATH,
        "manifest_sha256": DIGEST, "created": "2026-11-21T04:50:01.123Z", "run_id": "abcd1234",
        "rows": 3, "size_bytes": 4,
    }  # fmt: skip
    manifest = {"path": f"{PATH}/manifest.json", "size_bytes": 10, "sha256": DIGEST}
    fragment = {"path": PATH, "manifest_sha256": DIGEST, "entries": [entry], "members": [manifest]}
    return {"format": 1, "kind": "runs", "spool_id": "1" * 32, "fragments": [fragment], "members": []}


def _parsed(body: object) -> Index | None:
    try:
        return parse_index(json.dumps(body).encode())
    except BundleError as error:
        assert "\n" not in str(error)
        return None


def _inside(index: Index) -> bool:
    return all(
        str(PurePosixPath(member.path)) == member.path
        and ".." not in PurePosixPath(member.path).parts
        and member.path.startswith(f"runs/202611/{LAUNCH}/")
        for member in index.stored()
    )


def test_a_plain_index_is_read_and_written_again_as_the_same_bytes() -> None:
    index = _parsed(_index())
    assert index is not None
    assert parse_index(index.encode()) == index
    assert parse_index(index.encode()).encode() == index.encode()


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_refused(content: bytes) -> None:
    for parse in (parse_index, parse_head):
        try:
            parse(content)
        except BundleError:
            pass


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_an_index_with_one_value_replaced_is_read_or_refused_and_never_leads_out(data: st.DataObject) -> None:
    body = _index()
    node: Any = body
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(_json)
    index = _parsed(body)
    assert index is None or _inside(index)


@settings(max_examples=600, deadline=None)
@given(st.lists(_paths, max_size=4))
def test_whatever_paths_an_index_names_what_is_taken_stays_below_its_launch(paths: list[str]) -> None:
    body = _index()
    body["fragments"][0]["members"] += [{"path": path, "size_bytes": 1, "sha256": DIGEST} for path in paths]
    index = _parsed(body)
    assert index is None or _inside(index)


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=300).filter(lambda name: "\0" not in name and name[-1] != "/"), st.integers(0, 1 << 50)
)
def test_a_header_is_whole_blocks_and_read_by_the_standard_library(name: str, size: int) -> None:
    import io
    import tarfile

    try:
        name.encode()
    except UnicodeEncodeError:
        return
    blocks = header(name, size)
    assert len(blocks) % BLOCK_BYTES == 0
    with tarfile.open(fileobj=io.BytesIO(blocks + bytes(1024)), ignore_zeros=True) as archive:
        info = archive.next()
    assert info is not None
    assert (info.name, info.size, info.mode, info.uid, info.mtime) == (name, size, 0o600, 0, 0)
