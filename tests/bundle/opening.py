"""Bundles made by hand for attacks: any members, any headers, any index."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import zstandard

from wandb_spool.spool import bundle_tar
from wandb_spool.spool.bundle_index import head_of


def plain(bundle: Path) -> bytes:
    """The archive inside a bundle."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(bundle.read_bytes())


def compressed(archive: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(archive)


def members(bundle: Path) -> dict[str, bytes]:
    """What the standard library's tarfile finds in a bundle."""
    with tarfile.open(fileobj=io.BytesIO(plain(bundle))) as archive:
        return {info.name: _content(archive, info) for info in archive.getmembers()}


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(info)
    return b"" if stream is None else stream.read()


def member(name: str, content: bytes) -> bytes:
    return bundle_tar.header(name, len(content)) + content + bundle_tar.padding(len(content))


def made(index: bytes, rest: bytes, *, end: bytes = bundle_tar.END) -> bytes:
    """A bundle whose head fits its index, whatever follows."""
    return compressed(member("bundle.json", head_of(index).encode()) + member("index.json", index) + rest + end)


def sealed_again(bundle: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> bytes:
    """The bundle with index and members changed, and head, digests of the index and archive made to fit again."""
    contents = members(bundle)
    index = json.loads(contents.pop("index.json"))
    contents.pop("bundle.json")
    change(index, contents)
    encoded = json.dumps(index).encode()
    return made(encoded, b"".join(member(name, content) for name, content in contents.items()))


def foreign(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """A member as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()[: archive.offset]


def boundaries(archive: bytes) -> list[int]:
    """Where members begin, where their contents begin and end."""
    places: list[int] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for info in opened.getmembers():
            places += [info.offset, info.offset_data, info.offset_data + info.size]
    return places


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def all_refused(attempts: Iterable[tuple[str, bytes]], refuse: Callable[[bytes], str | None]) -> dict[str, str]:
    """Name of each attempt that was not refused, and what happened instead."""
    return {name: what for name, content in attempts if (what := refuse(content)) is not None}
