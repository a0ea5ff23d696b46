"""How fast a fragment is sealed, side by side with `sha256sum` over the same files.

    python benchmarks/seal_speed.py [--size-mb 1024] [--small 500] [--pairs 5] [--directory DIR]

The fragment holds one large file (a checkpoint), a few of middle size and `--small` small ones (media). `sha256sum` and
the seal alternate in one run over the same files, warm or cold alike. The files are new and not yet on the disk when
the
first pair begins, as after a training; `--settled` waits until they are. Reported are medians; the promise is that the
seal reaches at least 0.8 of what `sha256sum` reaches. Exit code 1 if it is broken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wandb_spool.spool.launches import Launch
from wandb_spool.spool.manifest import MANIFEST_NAME
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.recover import open_entry
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State

PROMISE = 0.8
SMALL_BYTES = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--small", type=int, default=500, help="number of small files")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--settled", action="store_true", help="begin when the files are on the disk")
    parser.add_argument("--directory", type=Path, help="where to measure (default: the temporary directory)")
    options = parser.parse_args()
    with fragment(options.directory, options.size_mb << 20, options.small) as (spool, place, files):
        total = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files, {total / 1e6:.0f} MB")
        if options.settled:
            os.sync()
        pairs = [(digest(files), seal(spool, place)) for _ in range(options.pairs)]
    theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    for number, (before, after) in enumerate(pairs, start=1):
        print(f"  pair {number}: sha256sum {before:.2f} s, seal {after:.2f} s, ratio {before / after:.2f}")
    ratio = statistics.median(before / after for before, after in pairs)
    print(f"sha256sum  median {theirs:6.2f} s  {total / theirs / 1e6:7.0f} MB/s")
    print(f"seal       median {ours:6.2f} s  {total / ours / 1e6:7.0f} MB/s  {ratio:.2f} of sha256sum")
    return 0 if ratio >= PROMISE else 1


@contextmanager
def fragment(directory: Path | None, size_bytes: int, small: int) -> Iterator[tuple[Spool, Place, list[Path]]]:
    """An open fragment with files of these sizes."""
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        spool = Spool.create(Path(temporary) / "spool")
        launch = Launch.create(spool, ["benchmark"])
        run = launch.paths.wandb / "offline-run-20261121_050000-benchmark"
        (run / "files").mkdir(parents=True)
        parts = (("checkpoint.pt", size_bytes * 3 // 4), ("a.bin", size_bytes // 8), ("b.bin", size_bytes // 8))
        for name, size in parts:
            write(run / "files" / name, size)
        for number in range(small):
            write(run / "files" / f"{number}.png", SMALL_BYTES)
        (run / "run-benchmark.wandb").write_bytes(b":W&B\xe1\xbe\0")
        place = spool.add(open_entry(spool, launch, run))
        yield spool, place, sorted((run / "files").iterdir())


def write(path: Path, size: int) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for at in range(0, size, len(block)):
            stream.write(block[: size - at])


def digest(files: list[Path]) -> float:
    started = time.perf_counter()
    subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def seal(spool: Spool, place: Place) -> float:
    """Seal, then put the entry back: the next pair seals the same fragment anew."""
    started = time.perf_counter()
    sealed = seal_fragment(spool, place)
    took = time.perf_counter() - started
    entry = spool.read(sealed)
    (entry.run_directory(spool.root) / MANIFEST_NAME).unlink()
    spool.move(sealed, State.OPEN, entry)
    return took


if __name__ == "__main__":
    sys.exit(main())
