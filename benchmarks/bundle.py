"""How fast bundles are packed and unpacked: `python benchmarks/bundle.py [--gigabytes N] [--directory DIR]`.

Incompressible files in a sealed fragment, on one disk, in one run: `tar | sha256sum` over the run directory, packing,
unpacking, and `tar | sha256sum` again; the mean of the two is what both are compared with. Packing and unpacking write
and fsync everything, `tar | sha256sum` writes nothing. Prints MB/s, and the peak of memory of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wandb_spool.spool.bundle_pack import plan, write_bundle
from wandb_spool.spool.bundle_unpack import unpack
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.log import LogWriter
from wandb_spool.spool.log.wire import integer_field, length_field, text_field
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.seal import seal_fragment

TARGET = 0.7
_FILE_BYTES = 256 << 20


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--gigabytes", type=float, default=1.0)
    arguments.add_argument("--directory", type=Path, help="on the disk that is measured (default: the temporary one)")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
        return measure(Path(scratch), int(given.gigabytes * 1e9))


def measure(scratch: Path, size_bytes: int) -> int:
    spool, entry = make_fragment(scratch / "spool", size_bytes)
    bundle = scratch / "runs.tar.zst"
    megabytes = size_bytes / 1e6
    before_s = taken_s(lambda: tar_and_sha256sum(spool.root / entry.path))
    packing = in_child(lambda: pack(spool, entry, bundle))
    unpacking = in_child(lambda: unpack_into(scratch / "other", bundle))
    after_s = taken_s(lambda: tar_and_sha256sum(spool.root / entry.path))
    yardstick_s = (before_s + after_s) / 2
    print(f"{megabytes:.0f} MB in {-(-size_bytes // _FILE_BYTES)} files, bundle {bundle.stat().st_size / 1e6:.0f} MB")
    print(f"tar | sha256sum  {megabytes / before_s:8.0f} MB/s before, {megabytes / after_s:.0f} MB/s after")
    met = True
    for name, used in (("pack", packing), ("unpack", unpacking)):
        ratio = yardstick_s / used.seconds
        met &= ratio >= TARGET
        print(f"{name:<15}  {megabytes / used.seconds:8.0f} MB/s, {ratio:.0%} of the yardstick,{used}")
    print(f"target           {TARGET:8.0%} of the yardstick: {'met' if met else 'MISSED'}")
    return 0 if met or os.environ.get("BENCHMARK_REPORT_ONLY") else 1


def make_fragment(root: Path, size_bytes: int) -> tuple[Spool, Entry]:
    """One sealed fragment with incompressible files."""
    spool = Spool.create(root)
    launch = Launch.create(spool, ["benchmark"])
    directory = launch.paths.wandb / "offline-run-20261121_045001-benchmark"
    (directory / "files").mkdir(parents=True)
    with LogWriter(directory / "run-benchmark.wandb") as log:
        log.write(integer_field(1, 1) + length_field(17, text_field(1, "benchmark") + text_field(3, "speed")))
        log.write(integer_field(1, 2) + length_field(18, b""))
    left, number = size_bytes, 0
    while left > 0:
        with (directory / "files" / f"{number:03d}.bin").open("wb") as stream:
            for _ in range(min(left, _FILE_BYTES) >> 20):
                stream.write(os.urandom(1 << 20))
        left, number = left - _FILE_BYTES, number + 1
    entry = Entry(
        name=f"{launch.name}.{directory.name}",
        launch=launch.name,
        fragment=directory.name,
        path=directory.relative_to(root).as_posix(),
        created="2026-11-21T04:50:01.000Z",
    )
    return spool, spool.read(seal_fragment(spool, spool.add(entry)))


def pack(spool: Spool, entry: Entry, bundle: Path) -> None:
    packed, left = write_bundle(spool, plan(spool, [entry]).carried, bundle)
    assert packed is not None
    assert not left


def unpack_into(root: Path, bundle: Path) -> None:
    spool = Spool.create(root)
    with bundle.open("rb") as stream:
        assert unpack(spool, stream, name=bundle.name, now_s=time.time()).arrived


def tar_and_sha256sum(directory: Path) -> None:
    tar, sha256sum = shutil.which("tar"), shutil.which("sha256sum")
    if tar is None or sha256sum is None:
        raise SystemExit("tar and sha256sum are needed to compare with")
    subprocess.run(f"tar -cf - -C '{directory}' . | sha256sum", shell=True, check=True, stdout=subprocess.DEVNULL)


def taken_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Used(NamedTuple):
    """What work in a process of its own took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:6.1f} s, {self.cpu_seconds:.1f} s of processor time, peak {self.peak_bytes / 1e6:.0f} MB"


def in_child(work: Callable[[], object]) -> Used:
    os.sync()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit("it failed")
    return Used(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    raise SystemExit(main())
