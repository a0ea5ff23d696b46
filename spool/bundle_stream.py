"""A bundle as a stream: written once from front to back, read once from front to back, in bounded memory.

`BundleWriter` writes exactly what the index says and fails with `MemberDiffers` as soon as a file turns out to be
another one. `BundleReader` yields nothing that the index does not say, and its end is the end of the file: what was
cut, altered or appended raises `BundleError`. Neither touches a spool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from . import bundle_tar
from .bundle_index import (
    HEAD_NAME,
    INDEX_NAME,
    MAX_HEAD_BYTES,
    BundleError,
    Head,
    Index,
    Member,
    head_of,
    parse_head,
    parse_index,
)

CHUNK_BYTES = 1 << 20
LEVEL = 3
MAX_WINDOW_BYTES = 128 << 20

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES = 128 << 10
_RAW, _RLE, _COMPRESSED = 0, 1, 2


class MemberDiffers(Exception):
    """A file on disk is not the one that the index names: tampering, or a seal that was provisional."""

    def __init__(self, member: Member, what: str) -> None:
        self.member = member
        self.what = what
        super().__init__(f"{member.path}: {what}")


class BundleWriter:
    """Writes one bundle into `sink`, which takes bytes and returns nothing."""

    def __init__(self, sink: Callable[[bytes], None], index: Index) -> None:
        self._sink = sink
        self._encoder = zstandard.ZstdCompressor(
            level=LEVEL, write_checksum=True, write_content_size=False, threads=0
        ).compressobj()
        encoded = index.encode()
        self.head = head_of(encoded)
        self._whole(HEAD_NAME, self.head.encode())
        self._whole(INDEX_NAME, encoded)

    def add(self, member: Member, content: Iterator[bytes | memoryview]) -> None:
        """Append one file, hashing it on its way. Raises MemberDiffers."""
        self._put(bundle_tar.header(member.path, member.size_bytes))
        digest = hashlib.sha256()
        size = 0
        for chunk in content:
            size += len(chunk)
            if size > member.size_bytes:
                raise MemberDiffers(member, f"more than the {member.size_bytes} bytes that were sealed")
            digest.update(chunk)
            self._put(chunk)
        if size != member.size_bytes:
            raise MemberDiffers(member, f"{size} bytes instead of {member.size_bytes}")
        if digest.hexdigest() != member.sha256:
            raise MemberDiffers(member, "other bytes than those that were sealed")
        self._put(bundle_tar.padding(size))

    def finish(self) -> None:
        self._put(bundle_tar.END)
        self._sink(self._encoder.flush())

    def _whole(self, name: str, content: bytes) -> None:
        self._put(bundle_tar.header(name, len(content)))
        self._put(content)
        self._put(bundle_tar.padding(len(content)))

    def _put(self, data: bytes | memoryview) -> None:
        if data:
            out = self._encoder.compress(data)
            if out:
                self._sink(out)


class BundleReader:
    """Reads one bundle. `index` and `digest` are there after construction; then `content` for each stored member."""

    def __init__(self, source: BinaryIO, *, digest: str | None = None) -> None:
        self._plain = _Decompressed(source)
        head = self._head()
        if digest is not None and not head.index_sha256.startswith(digest.lower()):
            raise BundleError(f"its digest is {head.index_sha256}, not the one that was asked for")
        self.digest = head.index_sha256
        content = self._whole(INDEX_NAME, head.index_bytes)
        if hashlib.sha256(content).hexdigest() != head.index_sha256:
            raise BundleError("the index is not the one that its head names: the bundle was altered")
        self.index: Index = parse_index(content)

    def content(self, member: Member) -> Iterator[bytes]:
        """The bytes of the next member. Raises BundleError behind them when they are other bytes."""
        self._header(member.path, member.size_bytes)
        digest = hashlib.sha256()
        left = member.size_bytes
        while left:
            chunk = self._plain.read(min(left, CHUNK_BYTES))
            left -= len(chunk)
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != member.sha256:
            raise BundleError(f"{member.path!r} holds other bytes than the index says: the bundle was altered")
        self._zeros(bundle_tar.padding(member.size_bytes), f"behind {member.path!r}")

    def finish(self) -> None:
        """The end of the archive and of the file."""
        block = self._plain.exactly(bundle_tar.BLOCK_BYTES)
        if any(block):
            raise BundleError(f"{bundle_tar.describe(block)} stands in the archive and not in the index")
        self._zeros(bytes(bundle_tar.BLOCK_BYTES), "at the end")
        self._plain.require_end()

    def _head(self) -> Head:
        block = self._plain.exactly(bundle_tar.BLOCK_BYTES)
        try:
            size = int(block[124:135], 8)
        except ValueError:
            size = -1
        if not 0 < size <= MAX_HEAD_BYTES or block != bundle_tar.header(HEAD_NAME, size):
            raise BundleError(f"it is no bundle: it begins with {bundle_tar.describe(block)} instead of {HEAD_NAME}")
        content = self._plain.exactly(size)
        self._zeros(bundle_tar.padding(size), f"behind {HEAD_NAME}")
        head = parse_head(content)
        if content != head.encode():
            raise BundleError("its head is not in the one form that a head has")
        return head

    def _whole(self, name: str, size_bytes: int) -> bytes:
        self._header(name, size_bytes)
        content = self._plain.exactly(size_bytes)
        self._zeros(bundle_tar.padding(size_bytes), f"behind {name}")
        return content

    def _header(self, name: str, size_bytes: int) -> None:
        expected = bundle_tar.header(name, size_bytes)
        found = self._plain.exactly(bundle_tar.BLOCK_BYTES)
        if found == expected[: bundle_tar.BLOCK_BYTES]:
            found += self._plain.exactly(len(expected) - bundle_tar.BLOCK_BYTES)
        if found != expected:
            what = bundle_tar.describe(found[: bundle_tar.BLOCK_BYTES])
            raise BundleError(f"where the index says {name!r} ({size_bytes} bytes), the archive has {what}")

    def _zeros(self, expected: bytes, where: str) -> None:
        if expected and self._plain.exactly(len(expected)) != expected:
            raise BundleError(f"there is something {where} that does not belong there")


class _Decompressed:
    """The plain bytes of a zstd file, block by block, so that no input can ask for much memory at once.

    It walks the frames itself: a file that was cut, even in the checksum behind its last block, is told from a whole
    one, and nothing may stand behind the last frame.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._ready = memoryview(b"")
        self._blocks = self._read()

    def read(self, limit_bytes: int) -> bytes:
        """At least one byte and at most `limit_bytes`. Raises BundleError at the end."""
        while not self._ready:
            self._ready = memoryview(self._next())
        taken, self._ready = bytes(self._ready[:limit_bytes]), self._ready[limit_bytes:]
        return taken

    def exactly(self, size_bytes: int) -> bytes:
        parts: list[bytes] = []
        while size_bytes:
            parts.append(self.read(size_bytes))
            size_bytes -= len(parts[-1])
        return b"".join(parts)

    def require_end(self) -> None:
        while not self._ready:
            block = next(self._blocks, None)
            if block is None:
                return
            self._ready = memoryview(block)
        raise BundleError("something stands behind the end of the archive")

    def _next(self) -> bytes:
        block = next(self._blocks, None)
        if block is None:
            raise BundleError("it ends too early: it was cut")
        return block

    def _read(self) -> Iterator[bytes]:
        magic = self._take(4, may_end=True)
        if magic != _MAGIC:
            raise BundleError("it is no bundle: it is not compressed with zstd")
        while magic:
            if magic != _MAGIC:
                raise BundleError("something stands behind the end of the file")
            yield from self._frame()
            magic = self._take(4, may_end=True)

    def _frame(self) -> Iterator[bytes]:
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        descriptor = self._take(1)
        size = zstandard.frame_header_size(_MAGIC + descriptor + bytes(16))
        has_checksum = bool(descriptor[0] & 4)
        yield self._decoded(decoder, _MAGIC + descriptor + self._take(size - 5))
        last = False
        while not last:
            start = self._take(3)
            word = int.from_bytes(start, "little")
            last, kind, length = bool(word & 1), word >> 1 & 3, word >> 3
            if length > _BLOCK_BYTES or kind not in (_RAW, _RLE, _COMPRESSED):
                raise BundleError("a block of it is damaged")
            body = self._take(1 if kind == _RLE else length)
            yield self._decoded(decoder, start + body + (self._take(4) if last and has_checksum else b""))

    def _decoded(self, decoder: zstandard.ZstdDecompressionObj, data: bytes) -> bytes:
        try:
            return decoder.decompress(data)
        except zstandard.ZstdError as error:
            raise BundleError("its compressed data are damaged") from error

    def _take(self, size_bytes: int, *, may_end: bool = False) -> bytes:
        data = self._source.read(size_bytes)
        while data and len(data) < size_bytes:
            more = self._source.read(size_bytes - len(data))
            if not more:
                break
            data += more
        if len(data) < size_bytes and not (may_end and not data):
            raise BundleError("it ends too early: it was cut")
        return data


__all__ = ["CHUNK_BYTES", "BundleReader", "BundleWriter", "MemberDiffers"]
