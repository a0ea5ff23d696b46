"""How fast a run is exported: `python benchmarks/export.py [--rows N] [LOG]`.

Without LOG it makes one that looks like what wandb writes (per row two summary records and one history record of five
metrics and the three that wandb adds). Prints seconds and the peak of memory for each format.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bundle import in_child
from log_reader import make_log

from wandb_spool.spool.exporting import Format, Piece, export_run
from wandb_spool.spool.run_reader import open_run

TARGET_S = 20.0
TARGET_ROWS = 1_000_000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("log", nargs="?", type=Path)
    arguments.add_argument("--rows", type=int, default=TARGET_ROWS)
    given = arguments.parse_args()
    met = True
    with tempfile.TemporaryDirectory() as scratch:
        log = given.log or make_log(Path(scratch) / "run-benchmark.wandb", given.rows)
        pieces = [Piece("fragment", open_run(log))]
        for kind in Format:

            def work(kind: Format = kind) -> None:
                export_run(pieces, Path(scratch) / kind.value, kind)

            seconds, peak = in_child(work)
            met &= seconds <= TARGET_S or given.rows != TARGET_ROWS
            print(f"{kind.value:<8} {seconds:6.1f} s, peak {peak / 1e6:.0f} MB")
    print(f"target   {TARGET_S:6.1f} s for {TARGET_ROWS:,} rows: {'met' if met else 'MISSED'}")
    return 0 if met or os.environ.get("BENCHMARK_REPORT_ONLY") else 1


if __name__ == "__main__":
    raise SystemExit(main())
