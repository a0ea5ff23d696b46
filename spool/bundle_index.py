"""The index of a bundle: what it carries, by path, size and SHA-256 (docs/bundle-format.md).

Pure. `parse_index` checks every rule of the format before a caller may use a path: what it returns can be written below
a directory without leading out of it. Fails with `BundleError`, one phrase that says which rule was broken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .edits import TEXTS, Edit
from .entry import Entry, entry_from_json
from .errors import SpoolError
from .layout import ENTRY_NAME, FRAGMENT_NAME, LAUNCH_NAME, launch_month, safe_relative
from .names import wrong_tag, wrong_target

FORMAT = 1
FORMAT_WITH_EDITS = 2
"""A reader that knows no edits must not deliver a run without the one that a person made."""
HEAD_NAME = "bundle.json"
INDEX_NAME = "index.json"
RECEIPTS_NAME = "receipts.jsonl"
MAX_HEAD_BYTES = 4096
MAX_INDEX_BYTES = 64 << 20

_MANIFEST, _LAUNCH = "manifest.json", "launch.json"
_MAX_SIZE_BYTES = 1 << 60
_MAX_EDIT_BYTES = 1 << 20
_NO_EDIT = Edit()
_ENTRY_KEYS = (
    "entry", "launch", "fragment", "path", "run_id", "project", "entity", "name", "base_url", "created", "writer",
    "predecessor", "command", "manifest_sha256", "rows", "size_bytes", "replay",
)  # fmt: skip
_HEX = frozenset("0123456789abcdef")


class BundleError(SpoolError):
    """The file is no bundle, or not the one that was packed. Nothing of it was used."""


class Kind(str, Enum):
    """What a bundle carries."""

    RUNS = "runs"
    RECEIPTS = "receipts"


@dataclass(frozen=True)
class Member:
    """One file of a bundle. `path` is relative to the spool."""

    path: str
    size_bytes: int
    sha256: str

    def as_json(self) -> dict[str, object]:
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Carried:
    """One fragment of a bundle."""

    path: str
    manifest_sha256: str
    entries: tuple[Entry, ...]
    members: tuple[Member, ...]
    edit: Edit = _NO_EDIT
    """What a person changed of its run."""

    @property
    def launch_path(self) -> str:
        return self.path.rpartition("/wandb/")[0]

    @property
    def name(self) -> str:
        """LAUNCH.FRAGMENT, the name of its first entry."""
        launch, _, fragment = self.path.rpartition("/wandb/")
        return f"{launch.rpartition('/')[2]}.{fragment}"

    @property
    def manifest_path(self) -> str:
        return f"{self.path}/{_MANIFEST}"

    @property
    def launch_record_path(self) -> str:
        return f"{self.launch_path}/{_LAUNCH}"

    def as_json(self) -> dict[str, object]:
        return {
            "path": self.path,
            "manifest_sha256": self.manifest_sha256,
            "entries": [entry_without_fate(entry) for entry in self.entries],
            "members": [member.as_json() for member in self.members],
            **({"edit": self.edit.as_json()} if self.edit else {}),
        }


@dataclass(frozen=True)
class Index:
    """All that a bundle carries, in the order of the archive."""

    kind: Kind
    spool_id: str
    fragments: tuple[Carried, ...] = ()
    loose: tuple[Member, ...] = field(default=())
    """Members that belong to no fragment: the receipts."""

    def stored(self) -> Iterator[Member]:
        """Each file once, in the order of the archive: two fragments of a launch may share some."""
        seen: set[str] = set()
        for carried in self.fragments:
            for member in carried.members:
                if member.path not in seen:
                    seen.add(member.path)
                    yield member
        yield from self.loose

    @property
    def size_bytes(self) -> int:
        return sum(member.size_bytes for member in self.stored())

    @property
    def format(self) -> int:
        return FORMAT_WITH_EDITS if any(carried.edit for carried in self.fragments) else FORMAT

    def encode(self) -> bytes:
        body = {
            "format": self.format,
            "kind": self.kind.value,
            "spool_id": self.spool_id,
            "fragments": [carried.as_json() for carried in self.fragments],
            "members": [member.as_json() for member in self.loose],
        }
        return encode_json(body)


@dataclass(frozen=True)
class Head:
    """The first member of a bundle: which index follows."""

    index_bytes: int
    index_sha256: str

    def encode(self) -> bytes:
        body = {"format": FORMAT, "index_bytes": self.index_bytes, "index_sha256": self.index_sha256}
        return encode_json(body)


def head_of(encoded_index: bytes) -> Head:
    return Head(len(encoded_index), hashlib.sha256(encoded_index).hexdigest())


def encode_json(body: object) -> bytes:
    """The one form of JSON in a bundle: the same value is the same bytes."""
    return (
        json.dumps(body, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")) + "\n"
    ).encode()


def entry_without_fate(entry: Entry) -> dict[str, object]:
    """What an entry says of its fragment; nothing of what a spool did with it."""
    body = entry.as_json()
    return {key: body[key] for key in _ENTRY_KEYS}


# -- reading ---------------------------------------------------------------------------------------------------------


def parse_head(content: bytes) -> Head:
    """The head of a bundle. Raises BundleError."""
    body = _object(content, "the head")
    size, digest = body.get("index_bytes"), body.get("index_sha256")
    _known_format(body, FORMAT)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_INDEX_BYTES:
        raise BundleError(
            f"the index of {size!r} bytes is larger than the {MAX_INDEX_BYTES} that are allowed, or no size"
        )
    return Head(size, _digest(digest, "the index"))


def parse_index(content: bytes) -> Index:
    """The index of a bundle, with every rule of the format checked. Raises BundleError."""
    body = _object(content, "the index")
    _known_format(body, FORMAT, FORMAT_WITH_EDITS)
    try:
        kind = Kind(body.get("kind"))
    except ValueError as error:
        raise BundleError(f"it carries {body.get('kind')!r}, which this version does not know") from error
    spool_id = body.get("spool_id")
    if not isinstance(spool_id, str) or not 0 < len(spool_id) <= 64:
        raise BundleError("the index names no spool")
    fragments = tuple(_carried(item) for item in _list(body, "fragments"))
    loose = tuple(_member(item) for item in _list(body, "members"))
    index = Index(kind, spool_id, fragments, loose)
    if kind is Kind.RECEIPTS:
        if fragments or [member.path for member in loose] != [RECEIPTS_NAME]:
            raise BundleError(f"a bundle of receipts carries {RECEIPTS_NAME} and nothing else")
    elif loose:
        raise BundleError(f"{loose[0].path!r} belongs to no fragment")
    if index.format != body["format"]:
        raise BundleError(f"it is of format {body['format']}, and what it carries is of format {index.format}")
    _refuse_collisions(index)
    return index


def _known_format(body: Mapping[str, Any], *known: int) -> None:
    found = body.get("format")
    if found not in known or isinstance(found, bool):
        raise BundleError(f"it is of format {found!r}, this version reads {' and '.join(map(str, known))}")


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is no JSON") from error
    if not isinstance(body, dict):
        raise BundleError(f"{what} is no JSON object")
    return body


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key)
    if not isinstance(value, list):
        raise BundleError(f"the index has no list `{key}`")
    return value


def _digest(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or not _HEX.issuperset(value):
        raise BundleError(f"no SHA-256 for {what}")
    return value


def _member(item: object) -> Member:
    if not isinstance(item, dict):
        raise BundleError("a member is no object")
    path = _path(item.get("path"))
    size = item.get("size_bytes")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE_BYTES:
        raise BundleError(f"{path!r} has no size")
    return Member(path, size, _digest(item.get("sha256"), repr(path)))


def _path(value: object) -> str:
    """A path that stays below the directory to which it is relative, in its one normal form."""
    if not isinstance(value, str):
        raise BundleError(f"{value!r} is no path")
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BundleError(f"{value!r} is no UTF-8") from error
    path = safe_relative(value)
    if path is None or path.as_posix() != value or value == "." or "\x7f" in value:
        raise BundleError(f"the path {value!r} leads out or is not in its plain form")
    if len(raw) > 4096 or any(len(part.encode()) > 255 for part in path.parts):
        raise BundleError(f"the path {value[:80]!r}… is too long")
    return value


def _carried(item: object) -> Carried:
    if not isinstance(item, dict):
        raise BundleError("a fragment is no object")
    path = _path(item.get("path"))
    parts = path.split("/")
    if (
        len(parts) != 5
        or (parts[0], parts[3]) != ("runs", "wandb")
        or not LAUNCH_NAME.fullmatch(parts[2])
        or parts[1] != launch_month(parts[2])
        or not FRAGMENT_NAME.fullmatch(parts[4])
    ):
        raise BundleError(f"{path!r} is no place of a fragment")
    digest = _digest(item.get("manifest_sha256"), "a manifest")
    members = tuple(_member(each) for each in _list(item, "members"))
    entries = tuple(_entry(each, path, digest) for each in _list(item, "entries"))
    carried = Carried(path, digest, entries, members, _edit(item["edit"], path) if "edit" in item else _NO_EDIT)
    if not entries or len({entry.name for entry in entries}) != len(entries):
        raise BundleError(f"{path!r} has no entry, or one twice")
    _check_members(carried)
    return carried


def _entry(body: object, path: str, digest: str) -> Entry:
    name = body.get("entry") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(name, str):
        raise BundleError(f"an entry of {path!r} has no name")
    launch, _, fragment = path.rpartition("/wandb/")
    match = ENTRY_NAME.fullmatch(name)
    expected = (launch.rpartition("/")[2], fragment)
    if match is None or (match["launch"], match["fragment"]) != expected or body.get("path") != path:
        raise BundleError(f"the entry {name!r} does not belong to {path!r}")
    if body.get("manifest_sha256") != digest:
        raise BundleError(f"the entry {name!r} has another manifest than its fragment")
    try:
        return entry_from_json(name, {"format": 1, **{key: body.get(key) for key in _ENTRY_KEYS if key != "entry"}})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, SpoolError) as error:
        raise BundleError(f"the entry {name!r} is damaged ({error})") from error


def _edit(body: object, path: str) -> Edit:
    """An edit that `wandb-spool edit` could have made: every key of an edit, no other, names that W&B takes."""
    if not isinstance(body, dict) or set(body) != {*TEXTS, "add_tags", "remove_tags"}:
        raise BundleError(f"the edit of {path!r} is none")
    try:
        edit = Edit.from_json(body)
    except TypeError as error:
        raise BundleError(f"the edit of {path!r} is none ({error})") from error
    try:
        size_bytes = len(encode_json(body))
    except UnicodeEncodeError as error:
        raise BundleError(f"the edit of {path!r} is no UTF-8") from error
    if not edit or size_bytes > _MAX_EDIT_BYTES:
        raise BundleError(f"the edit of {path!r} says nothing, or too much")
    wrong = wrong_target(edit.entity, edit.project, None)
    wrong = wrong or next(filter(None, map(wrong_tag, (*edit.add_tags, *edit.remove_tags))), None)
    if wrong:
        raise BundleError(f"the edit of {path!r} is none: {wrong}")
    return edit


def _check_members(carried: Carried) -> None:
    """Every file lies where its fragment may have files, and the manifest is among them."""
    places = (f"{carried.path}/", f"{carried.launch_path}/data/")
    for member in carried.members:
        path = member.path
        if path != carried.launch_record_path and not path.startswith(places):
            raise BundleError(f"{path!r} lies outside its fragment {carried.path!r}")
        if any(part.startswith(".tmp-") for part in path.split("/")):
            raise BundleError(f"{path!r} has the name of a temporary file")
        for special in (carried.manifest_path, carried.launch_record_path):
            if path != special and path.casefold() == special.casefold():
                raise BundleError(f"{path!r} differs from {special!r} only in case")
    paths = [member.path for member in carried.members]
    if len(set(paths)) != len(paths):
        raise BundleError(f"a file of {carried.path!r} is listed twice")
    if Member(carried.manifest_path, 0, carried.manifest_sha256) not in (
        Member(member.path, 0, member.sha256) for member in carried.members
    ):
        raise BundleError(f"{carried.path!r} carries no manifest, or another one")


def _refuse_collisions(index: Index) -> None:
    """Nothing in two places, with two contents, or a file here and a directory there."""
    seen: dict[str, Member] = {}
    directories: set[str] = set()
    names: set[str] = set()
    for carried in index.fragments:
        if carried.path in names:
            raise BundleError(f"the fragment {carried.path!r} is listed twice")
        names.add(carried.path)
        for member in carried.members:
            before = seen.setdefault(member.path, member)
            if before != member:
                raise BundleError(f"{member.path!r} is listed with two contents")
            parent = member.path.rpartition("/")[0]
            while parent and parent not in directories:
                directories.add(parent)
                parent = parent.rpartition("/")[0]
    for path in seen:
        if path in directories:
            raise BundleError(f"{path!r} is a file and a directory")
