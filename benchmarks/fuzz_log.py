"""Throw random logs at the log reader: `python benchmarks/fuzz_log.py [--inputs 100000] [--seed 1] [--log LOG]`.

Every input is a whole log that was hurt: bytes flipped, cut out, doubled, overwritten, chunks shuffled, contents
replaced by random messages under right checksums, or noise behind a header. Checked each time: nothing is raised;
without salvage the records are a prefix of those before the hurt, as far as checksums can tell; salvage yields only
records that were there; a rewrite of what was read is a whole log. Exit code 1 and the seed of the input otherwise.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from wandb_spool.spool.log import EndingKind, LogWriter, artifacts, facts, read_records, rewrite, rows
from wandb_spool.spool.log.framing import HEADER
from wandb_spool.spool.log.wire import integer_field, length_field, varint_bytes

_CONTENT_KINDS = (2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 17, 18, 26, 90, 300)

Hurt = Callable[[random.Random, bytes], bytes]


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--inputs", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--log", type=Path, help="a real log to hurt besides the built one")
    given = arguments.parse_args()
    whole = [built_log(random.Random(given.seed))]
    if given.log:
        whole.append(given.log.read_bytes())
    originals = [{record.payload for record in read_records(io.BytesIO(log))} for log in whole]
    endings: Counter[str] = Counter()
    began = time.perf_counter()
    for number in range(given.inputs):
        seed = given.seed * 1_000_003 + number
        chance = random.Random(seed)
        which = chance.randrange(len(whole))
        hurt = chance.choice(HURTS)
        try:
            endings[check(hurt(chance, whole[which]), originals[which], genuine=hurt in GENUINE)] += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding, and its seed must be told
            print(f"input seed {seed} ({hurt.__name__}): {type(error).__name__}: {error}")
            return 1
    taken_s = time.perf_counter() - began
    print(f"{given.inputs} inputs, seed {given.seed}, {taken_s:.0f} s, nothing raised, nothing made up")
    print("endings: " + ", ".join(f"{kind} {count}" for kind, count in sorted(endings.items())))
    return 0


def check(log: bytes, originals: set[bytes], *, genuine: bool) -> str:
    """`genuine`: every record of the hurt log with right checksums was in the whole one."""
    reader = read_records(io.BytesIO(log))
    plain = [record.payload for record in reader]
    salvager = read_records(io.BytesIO(log), salvage=True)
    salvaged = [record.payload for record in salvager]
    if salvaged[: len(plain)] != plain:
        raise AssertionError("salvage does not begin with what a plain reading gives")
    if genuine and not originals.issuperset(salvaged):
        raise AssertionError("a record that was never there")
    if reader.good_bytes > len(log):
        raise AssertionError("more good bytes than bytes")
    seen = facts(io.BytesIO(log), salvage=True)
    if seen.rows != sum(1 for _ in rows(io.BytesIO(log), salvage=True)):
        raise AssertionError("facts and rows disagree")
    for artifact in artifacts(io.BytesIO(log)):
        list(artifact.entries())
    copy = io.BytesIO()
    rewrite(io.BytesIO(log), copy, salvage=True)
    again = read_records(io.BytesIO(copy.getvalue()))
    if [record.payload for record in again] != salvaged or again.ending.kind in (EndingKind.TORN, EndingKind.DAMAGED):
        raise AssertionError("a rewrite is not a whole log")
    return reader.ending.kind.value


def built_log(chance: random.Random) -> bytes:
    """A small log with records within a block and across blocks."""
    target = io.BytesIO()
    with LogWriter(target) as log:
        log.write(integer_field(1, 1) + length_field(17, length_field(1, b"fuzz")))
        for num in range(2, 40):
            size = chance.choice((0, 3, 50, 300, 4000)) if num != 20 else 70_000
            item = length_field(1, length_field(2, b"k") + length_field(16, b'"' + b"x" * size + b'"'))
            log.write(integer_field(1, num) + length_field(2, item + length_field(2, integer_field(1, num))))
        log.write(integer_field(1, 40) + length_field(18, b""))
    return target.getvalue()


def flip_bits(chance: random.Random, log: bytes) -> bytes:
    hurt = bytearray(log)
    for _ in range(chance.randint(1, 8)):
        hurt[chance.randrange(len(hurt))] ^= 1 << chance.randrange(8)
    return bytes(hurt)


def cut_out(chance: random.Random, log: bytes) -> bytes:
    begin = chance.randrange(len(log))
    return log[:begin] + log[begin + chance.choice((1, 7, 100, 32768, len(log))) :]


def double(chance: random.Random, log: bytes) -> bytes:
    begin = chance.randrange(len(log))
    size = chance.choice((1, 7, 100, 32768))
    return log[: begin + size] + log[begin : begin + size] + log[begin + size :]


def overwrite(chance: random.Random, log: bytes) -> bytes:
    begin, size = chance.randrange(len(log)), chance.choice((1, 4, 7, 64, 4096))
    noise = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    return (log[:begin] + noise + log[begin + size :])[: len(log)]


def shuffle_chunks(chance: random.Random, log: bytes) -> bytes:
    hurt = bytearray(HEADER)
    for _ in range(chance.randint(1, 20)):
        body = bytes((chance.choice((0, 1, 1, 2, 3, 4, 200)),)) + random_message(chance, 3)
        length = len(body) - 1 if chance.random() < 0.9 else chance.randrange(65536)
        hurt += struct.pack("<IH", crc32(body), length) + body
    return bytes(hurt)


def random_contents(chance: random.Random, log: bytes) -> bytes:
    target = io.BytesIO()
    with LogWriter(target) as writer:
        writer.write(integer_field(1, 1) + length_field(17, length_field(1, b"fuzz")))
        for num in range(2, chance.randint(3, 12)):
            content = random_message(chance, 4)
            writer.write(integer_field(1, num) + length_field(chance.choice(_CONTENT_KINDS), content))
    return target.getvalue()


def noise(chance: random.Random, log: bytes) -> bytes:
    return (HEADER if chance.random() < 0.8 else b"") + chance.randbytes(chance.randrange(600))


def random_message(chance: random.Random, depth: int) -> bytes:
    parts = []
    for _ in range(chance.randrange(5)):
        number = chance.choice((1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 17, 200))
        shape = chance.random()
        if shape < 0.4 and depth:
            parts.append(length_field(number, random_message(chance, depth - 1)))
        elif shape < 0.7:
            text = chance.choice((b"1", b"NaN", b'{"a":[1,{"b":null}]}', b"[" * 2000, b'"x"', b"1e999", b"", b"\xff"))
            parts.append(length_field(number, text))
        elif shape < 0.9:
            parts.append(varint_bytes(number << 3) + varint_bytes(chance.getrandbits(chance.choice((3, 31, 64)))))
        else:
            parts.append(chance.randbytes(chance.randrange(12)))
    return b"".join(parts)


GENUINE: tuple[Hurt, ...] = (flip_bits, cut_out, double, overwrite)
HURTS: tuple[Hurt, ...] = (*GENUINE, shuffle_chunks, random_contents, noise)

if __name__ == "__main__":
    raise SystemExit(main())
