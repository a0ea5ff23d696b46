"""What one ``run.log`` costs: under the hook against plain offline wandb with its defaults, paired in one run.

Each pair is two fresh processes, one after the other, in alternating order; the medians over the pairs are compared.
Usage: ``python benchmarks/log_call.py [--pairs 5] [--calls 20000]``. Exit code 1 if the hook is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from wandb_spool.runner.hook import HOOK_DIR

PROGRAM = """
import json, sys, time
import wandb
calls, pause_s = int(sys.argv[1]), float(sys.argv[2])
run = wandb.init(project="benchmark")
spent = []
cpu_began, process_began = time.thread_time(), time.process_time()
for i in range(calls):
    began = time.perf_counter()
    run.log({"epoch": i // 100, "loss": 1.0 / (i + 1), "accuracy": i * 0.1, "lr": 0.001, "step": i})
    spent.append(time.perf_counter() - began)
    if pause_s:
        time.sleep(pause_s)
cpu_us = (time.thread_time() - cpu_began) / calls * 1e6
run.finish()
spent.sort()
print(json.dumps({"mean_us": sum(spent) / calls * 1e6, "p50_us": spent[calls // 2] * 1e6,
                  "p99_us": spent[calls * 99 // 100] * 1e6, "cpu_us": cpu_us,
                  "process_cpu_us": (time.process_time() - process_began) / calls * 1e6}))
"""


def environment(folder: Path, hooked: bool) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PYTHONPATH"))}
    launch = folder / "runs" / "202601" / "20260101T000000-bench-00000000"
    (launch / "data").mkdir(parents=True)
    env |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(launch), "HOME": str(folder)}
    if hooked:
        (folder / "queue" / "open").mkdir(parents=True)
        env |= {
            "WANDB_DATA_DIR": str(launch / "data"),
            "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.5",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SPOOL_DIR": str(folder),
            "WANDB_SPOOL_LAUNCH": str(launch),
            "PYTHONPATH": str(HOOK_DIR),
        }
    return env


def measure(hooked: bool, calls: int, pause_s: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(calls), str(pause_s)],
            env=environment(Path(folder), hooked),
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(pairs: int, calls: int, pause_s: float) -> float:
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for pair in range(pairs):
        for hooked in (False, True) if pair % 2 else (True, False):
            found[hooked].append(measure(hooked, calls, pause_s))
    for name in ("mean_us", "p50_us", "p99_us", "cpu_us", "process_cpu_us"):
        plain, spool = (statistics.median(one[name] for one in found[hooked]) for hooked in (False, True))
        print(f"  {name:14} plain {plain:8.1f}  under the hook {spool:8.1f}  ratio {spool / plain:.2f}")
    ratios = [spool["mean_us"] / plain["mean_us"] for plain, spool in zip(found[False], found[True], strict=True)]
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    print(f"one call after the other, {options.calls} calls:")
    tight = compare(options.pairs, options.calls, 0.0)
    print(f"a call every 2 ms, {options.calls // 20} calls:")
    paced = compare(options.pairs, options.calls // 20, 0.002)
    print(f"ratio of means, median of pairs: tight {tight:.2f}, paced {paced:.2f}")
    return 0 if max(tight, paced) <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
