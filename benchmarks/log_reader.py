"""How fast a `.wandb` log is read: `python benchmarks/log_reader.py [--rows N] [LOG]`.

Without LOG it makes one of N rows that looks like what wandb writes for a training loop: per row two summary records
and one history record of five metrics. Prints, best of three: records/s for scanning (framing, checksum, kind, number),
rows/s with values and digest, records/s for `facts` and for a rewrite.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wandb_spool.spool.log import LogWriter, facts, read_records, renumber, rewrite, rows
from wandb_spool.spool.log.wire import integer_field, length_field, text_field

TARGET_RECORDS_PER_S = 300_000
_HISTORY, _SUMMARY, _RUN, _EXIT = 2, 3, 17, 18


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("log", nargs="?", type=Path)
    arguments.add_argument("--rows", type=int, default=100_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        log = given.log or make_log(Path(scratch) / "run-benchmark.wandb", given.rows)
        return measure(log, Path(scratch))


def make_log(path: Path, row_count: int) -> Path:
    with LogWriter(path) as log:
        log.write(record(1, _RUN, text_field(1, "benchmark") + text_field(3, "speed")))
        for step in range(row_count):
            num = 2 + 3 * step
            now = 1.7e9 + step / 10
            values = {"loss": 1 / (step + 1), "accuracy": step % 100 / 100, "epoch": step // 1000, "lr": 0.005}
            items = [item(key, repr(value)) for key, value in values.items()]
            items += [item("_timestamp", repr(now)), item("_runtime", repr(step / 10)), item("_step", str(step))]
            # wandb writes the time in whole seconds under a plain key, all else under nested ones, in random order.
            runtime = text_field(1, "_runtime") + length_field(16, str(step // 10).encode())
            log.write(record(num, _SUMMARY, length_field(1, runtime)))
            log.write(record(num + 1, _SUMMARY, shuffled(items)))
            log.write(record(num + 2, _HISTORY, shuffled(items) + length_field(2, integer_field(1, step))))
        log.write(record(2 + 3 * row_count, _EXIT, b""))
    return path


def shuffled(items: list[bytes]) -> bytes:
    return b"".join(length_field(1, each) for each in random.sample(items, len(items)))


def item(key: str, value: str) -> bytes:
    return length_field(2, key.encode()) + length_field(16, value.encode())


def record(num: int, kind: int, content: bytes) -> bytes:
    return integer_field(1, num) + length_field(kind, content)


def measure(log: Path, scratch: Path) -> int:
    seen = facts(log)
    print(f"{log.stat().st_size / 1e6:.1f} MB, {seen.records} records, {seen.rows} rows, {seen.ending.kind.value}")
    scan_s = best_s(lambda: sum(1 for _ in read_records(log)))
    rows_s = best_s(lambda: sum(1 for _ in rows(log)))
    facts_s = best_s(lambda: facts(log))

    def copy() -> None:
        target = scratch / "copy.wandb"
        target.unlink(missing_ok=True)
        rewrite(log, target, renumber())

    rewrite_s = best_s(copy)
    print(f"scan     {seen.records / scan_s:12,.0f} records/s")
    print(f"rows     {seen.rows / rows_s:12,.0f} rows/s with digest ({seen.records / rows_s:,.0f} records/s)")
    print(f"facts    {seen.records / facts_s:12,.0f} records/s")
    print(f"rewrite  {seen.records / rewrite_s:12,.0f} records/s")
    fast_enough = seen.records / scan_s >= TARGET_RECORDS_PER_S
    print(f"target   {TARGET_RECORDS_PER_S:12,} records/s for scanning: {'met' if fast_enough else 'MISSED'}")
    return 0 if fast_enough or os.environ.get("BENCHMARK_REPORT_ONLY") else 1


def best_s(work: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    raise SystemExit(main())
