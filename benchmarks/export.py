"""How fast a run is exported: `python benchmarks/export.py [--rows N] [--peer] [LOG]`.

Without LOG it makes one that looks like what wandb writes (per row two summary records and one history record of five
metrics and the three that wandb adds). Prints seconds, processor time and the peak of memory for each format.

--peer measures beside it what one would write oneself: wandb's own protobuf classes (private, tied to the installed
protobuf), a dictionary a row, a pandas.DataFrame, to_parquet. The framing is read by ours for both, since wandb has no
reader any more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bundle import in_child
from log_reader import make_log

from wandb_spool.spool.exporting import Format, Piece, export_run
from wandb_spool.spool.log import read_records
from wandb_spool.spool.run_reader import open_run

TARGET_S = 20.0
TARGET_ROWS = 1_000_000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("log", nargs="?", type=Path)
    arguments.add_argument("--rows", type=int, default=TARGET_ROWS)
    arguments.add_argument("--peer", action="store_true")
    given = arguments.parse_args()
    print(f"load at the start {os.getloadavg()[0]:.1f}")
    met = True
    with tempfile.TemporaryDirectory() as scratch:
        log = given.log or make_log(Path(scratch) / "run-benchmark.wandb", given.rows)
        pieces = [Piece("fragment", open_run(log))]
        for kind in Format:

            def work(kind: Format = kind) -> None:
                export_run(pieces, Path(scratch) / kind.value, kind)

            used = in_child(work)
            met &= used.seconds <= TARGET_S or given.rows != TARGET_ROWS
            print(f"{kind.value:<8} {used}")
        if given.peer:
            used = in_child(lambda: by_hand(log, Path(scratch) / "by-hand.parquet"))
            print(f"by hand  {used}")
    print(f"target   {TARGET_S:6.1f} s for {TARGET_ROWS:,} rows: {'met' if met else 'MISSED'}")
    return 0 if met or os.environ.get("BENCHMARK_REPORT_ONLY") else 1


def by_hand(log: Path, target: Path) -> None:
    import pandas
    from wandb.proto import wandb_internal_pb2

    parse: Any = vars(wandb_internal_pb2)["Record"].FromString

    rows: list[dict[str, Any]] = []
    for each in read_records(log):
        record = parse(each.payload)
        if record.WhichOneof("record_type") == "history":
            rows.append({".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    pandas.DataFrame(rows).to_parquet(target)


if __name__ == "__main__":
    raise SystemExit(main())
