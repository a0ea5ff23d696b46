"""What a training loses under ``wandb-spool run``, against the same program with plain ``WANDB_MODE=offline``, paired.

    python benchmarks/training_throughput.py [--pairs 8] [--step-ms 5]

Two trainings: the reference pipeline (`wandb-spool train`), and a small PyTorch loop that logs every step. Each pair is
two fresh processes, one after the other, in alternating order (A B B A …). Reported are the ratios of their throughput,
spooled to plain, over the pairs: in examples or steps a second, and by the processor time of the training process,
which other work on the machine disturbs less. Exit code 1 if a median of the throughput is below 0.98.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROMISE = 0.98

# Only the training is timed: imports, `init` and the export of the model are the same in both, and long.
REFERENCE = """
import json, sys, time, wandb
from wandb_spool.runner.reference import training
over = training._Fit.over
def timed(fit, dataset, seed):
    wall, cpu = time.perf_counter(), time.process_time()
    seen = over(fit, dataset, seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"per_s": seen / wall, "per_cpu_s": seen / cpu}), flush=True)
    return seen
training._Fit.over = timed
with wandb.init(project="benchmark", config={"dataset": "digits", "epochs": int(sys.argv[1])}) as run:
    training.train(run, device="cpu", onnx=False)
"""

EVERY_STEP = """
import json, sys, time, torch, wandb
steps, step_s = int(sys.argv[1]), float(sys.argv[2])
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
optimizer = torch.optim.Adam(model.parameters())
images, labels = torch.randn(512, 64), torch.randint(0, 10, (512,))
def step():
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    return loss.item()
for _ in range(20):
    step()
began = time.process_time()
for _ in range(20):
    step()
# As many optimizer steps to a logged step as make it as long as asked for, alike in both processes of a pair.
inner = int(sys.argv[3]) or max(1, round(step_s * 20 / (time.process_time() - began)))
run = wandb.init(project="benchmark")
wall, cpu = time.perf_counter(), time.process_time()
for i in range(steps):
    for _ in range(inner):
        loss = step()
    run.log({"loss": loss, "epoch": i // 100, "lr": 0.001, "accuracy": i * 0.1})
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"per_s": steps / wall, "per_cpu_s": steps / cpu, "inner": inner}), flush=True)
run.finish()
"""


@dataclass(frozen=True)
class Speed:
    """Examples or steps a second, by the clock and by the processor time of the training process."""

    per_s: float
    per_cpu_s: float
    inner: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2, help="of the reference pipeline")
    parser.add_argument("--steps", type=int, default=800, help="of the loop that logs every step")
    parser.add_argument("--step-ms", type=float, default=5.0)
    options = parser.parse_args()
    inner = _measure(EVERY_STEP, False, "20", str(options.step_ms / 1000), "0").inner
    medians = [
        compare("reference pipeline", options.pairs, REFERENCE, str(options.epochs)),
        compare(
            f"a log call every {options.step_ms:g} ms", options.pairs, EVERY_STEP, str(options.steps), "0", str(inner)
        ),
    ]
    return 0 if min(medians) >= PROMISE else 1


def compare(title: str, pairs: int, program: str, *arguments: str) -> float:
    """The median ratio of the throughput over the pairs."""
    by_clock, by_cpu = [], []
    for pair in range(pairs):
        speeds = {spooled: _measure(program, spooled, *arguments) for spooled in _order(pair)}
        by_clock.append(speeds[True].per_s / speeds[False].per_s)
        by_cpu.append(speeds[True].per_cpu_s / speeds[False].per_cpu_s)
    print(f"{title}, {pairs} pairs, spooled to plain (more is faster):")
    for name, ratios in (("throughput", by_clock), ("processor time", by_cpu)):
        print(f"  {name:14}  min {min(ratios):.3f}  median {statistics.median(ratios):.3f}  max {max(ratios):.3f}")
    return statistics.median(by_clock)


def _order(pair: int) -> tuple[bool, bool]:
    return (False, True) if pair % 2 else (True, False)


def _measure(program: str, spooled: bool, *arguments: str) -> Speed:
    with tempfile.TemporaryDirectory() as folder:
        launched = [sys.executable, "-m", "wandb_spool", "run", "--spool", f"{folder}/spool", "--quiet", "--"]
        done = subprocess.run(
            [*(launched if spooled else []), sys.executable, "-c", program, *arguments],
            env=_environment(Path(folder)),
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    answer = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return Speed(**json.loads(answer))


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PYTHONPATH"))}
    return {
        **kept,
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "OMP_NUM_THREADS": "1",  # another process must not decide how many threads there is room for
    }


if __name__ == "__main__":
    sys.exit(main())
