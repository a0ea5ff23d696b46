"""The archive inside a bundle: tar headers that follow from a member's name and size alone (docs/bundle-format.md).

Pure. A reader compares what it finds with the header that it expects, byte for byte; therefore nothing here parses a
foreign header but `describe`, whose only use is to say what a refused one was.
"""

from __future__ import annotations

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)

_NAME_BYTES = 100
_LARGEST_OCTAL = 8**11 - 1
_TYPES = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a FIFO",
    b"L": "a GNU long name",
    b"S": "a sparse file",
    b"g": "a global header",
    b"x": "an extended header",
}


def header(name: str, size_bytes: int) -> bytes:
    """All blocks that stand before the content of a regular file."""
    raw = name.encode("utf-8")
    records = b""
    short = raw
    if len(raw) > _NAME_BYTES or not raw.isascii():
        records += _record("path", raw)
        short = bytes(byte if 32 <= byte < 127 else 0x5F for byte in raw[:_NAME_BYTES])
    size = size_bytes
    if size_bytes > _LARGEST_OCTAL:
        records += _record("size", str(size_bytes).encode())
        size = 0
    plain = _block(short, size, b"0")
    if not records:
        return plain
    return _block(b"@PaxHeader", len(records), b"x") + records + padding(len(records)) + plain


def padding(size_bytes: int) -> bytes:
    """The zeros behind a content of this size."""
    return bytes(-size_bytes % BLOCK_BYTES)


def stored_bytes(name: str, size_bytes: int) -> int:
    """How much room a member takes in the archive."""
    return len(header(name, size_bytes)) + size_bytes + len(padding(size_bytes))


def describe(block: bytes) -> str:
    """What the header of a foreign member says it is, for the line in which it is refused."""
    if not any(block):
        return "the end of the archive"
    if block[257:262] != b"ustar":
        return "no header"
    name = block[:_NAME_BYTES].rstrip(b"\0").decode("utf-8", "replace")
    what = _TYPES.get(block[156:157], "a file")
    return f"{what} named {name!r}"


def _record(key: str, value: bytes) -> bytes:
    """A pax record: its own length in decimal, counted in."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    block = b"".join(
        (
            name.ljust(_NAME_BYTES, b"\0"),
            b"0000600\0" + b"0000000\0" * 2,  # mode, uid, gid
            b"%011o\0" % size,
            b"00000000000\0",  # mtime
            b" " * 8,  # the checksum counts its own field as spaces
            kind,
            bytes(100),
            b"ustar\x0000",
            bytes(64),
            b"0000000\0" * 2,
        )
    ).ljust(BLOCK_BYTES, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
