"""The sign of life that the hook writes beside a log: 256 bytes, in place (docs/format.md).

A line that is torn or foreign parses to None: *unknown*, never an exception. Reading costs one `pread`.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

SIZE_BYTES = 256
FILE_NAME = "alive"
SHARED_NAME = "shared"
UNTOLD = -1  # an exit code

_LINE = re.compile(
    rb"^(wandb-spool alive 1 seq=(\d+) rows=(\d+) refused=(\d+) step=(-?\d+) phase=(\w+) *exit=(-?\d+) pid=(\d+) )"
    rb"crc=([0-9a-f]{8})"
)


@dataclass(frozen=True)
class Alive:
    """What the hook last said of its fragment."""

    sequence: int
    rows: int
    refused: int
    step: int
    phase: str
    exit_code: int
    pid: int

    def encode(self) -> bytes:
        head = (
            f"wandb-spool alive 1 seq={self.sequence:012d} rows={self.rows:012d} refused={self.refused:012d} "
            f"step={self.step:020d} phase={self.phase:<8} exit={self.exit_code:04d} pid={self.pid:010d} "
        ).encode()
        return (head + b"crc=%08x" % zlib.crc32(head)).ljust(SIZE_BYTES - 1) + b"\n"


def rows_logged(run_directory: Path, sign: Alive | None) -> int | None:
    """How many rows were logged; None where nobody counted, or another process logged into the run as well."""
    return None if sign is None or (run_directory / SHARED_NAME).exists() else sign.rows


def decode(line: bytes) -> Alive | None:
    """None for a line whose form or CRC is wrong."""
    match = _LINE.match(line)
    if match is None or zlib.crc32(match[1]) != int(match[9], 16):
        return None
    return Alive(
        sequence=int(match[2]),
        rows=int(match[3]),
        refused=int(match[4]),
        step=int(match[5]),
        phase=match[6].decode(),
        exit_code=int(match[7]),
        pid=int(match[8]),
    )


def read(run_directory: Path) -> Alive | None:
    """The sign of life of a fragment, or None where there is none that can be believed."""
    try:
        fd = os.open(run_directory / "alive", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        for _ in range(3):  # a line caught in the middle of being written is whole a moment later
            alive = decode(os.pread(fd, SIZE_BYTES, 0))
            if alive is not None:
                return alive
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
