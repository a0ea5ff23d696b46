"""What `wandb-spool run` adds to a command that does nothing, side by side with the bare command.

    python benchmarks/run_overhead.py [--pairs 30] [--spool DIR]

Bare and launched commands alternate in one run, so that both see the same machine. Reported are the medians and the
quartiles of both, and of the difference of each pair; the promise is less than 0.3 s. Exit code 1 if it is broken.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PROMISE_S = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--spool", type=Path, help="default: a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        spool = options.spool or Path(temporary) / "spool"
        launched = [_program(), "run", "--spool", str(spool), "--", "true"]
        environ = {**os.environ, "HOME": temporary}
        measure(launched, environ)  # makes the spool and warms the caches
        pairs = [(measure(["true"], environ), measure(launched, environ)) for _ in range(options.pairs)]
    bare, run = zip(*pairs, strict=True)
    added = [after - before for before, after in pairs]
    for name, values in (("true", bare), ("wandb-spool run -- true", run), ("added", added)):
        print(f"{name:<24} {summary(values)}")
    return 0 if statistics.median(added) < PROMISE_S else 1


def measure(command: Sequence[str], environ: dict[str, str]) -> float:
    """Seconds from the start to the end of a command."""
    start = time.perf_counter()
    subprocess.run(command, env=environ, check=True)
    return time.perf_counter() - start


def summary(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"median {middle * 1000:6.1f} ms   quartiles {low * 1000:6.1f} … {high * 1000:6.1f} ms"


def _program() -> str:
    beside = Path(sys.executable).with_name("wandb-spool")
    return str(beside) if beside.exists() else "wandb-spool"


if __name__ == "__main__":
    sys.exit(main())
