"""The programs that make the real logs of these tests; run by the fixture in a process of its own.

`python programs.py NAME` runs one of the functions below with the real wandb client, offline.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import wandb

FLUSHED_S = 1.2  # more than twice the flush interval that the fixture sets


def _init(name: str, **arguments: Any) -> wandb.Run:
    return wandb.init(project="logs", id=name, name=f"the {name}", **arguments)


def small() -> None:
    """Few bytes, several kinds of records: for tests that try every byte."""
    run = _init("small", tags=["a"], config={"lr": 0.1})
    for value in range(4):
        run.log({"loss": 1 / (value + 1), "n": {"v": value}})
    run.finish()


def values() -> None:
    run = _init("values")
    run.log({"flat": 1, "n": {"a": 1, "b": {"c": [1, 2.0, {"x": {"y": 1}}]}}, "dotted.key": 5})
    run.log({"nan": float("nan"), "inf": float("inf"), "ninf": float("-inf"), "list": [float("nan"), 1]})
    run.log({"text": "héllo\n\"'", "none": None, "yes": True, "empty": {}, "ключ": [], "tuple": (1, 2)})
    run.log({"third": 1 / 3, "whole": 3.0, "tiny": 5e-324, "huge": 1e300, "p53": 2**53 - 1, "p70": 2**70})
    run.log({"histogram": wandb.Histogram([1, 2, 3])})
    run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
    run.finish()


def calls() -> None:
    """Which calls make a row; the test knows what to expect."""
    run = _init("calls")
    run.log({"a": 0})  # 0
    run.log({"a": 1}, commit=False)
    run.log({"b": 1})  # 1, both
    run.log({})  # 2, a row without values
    run.log({}, commit=False)
    run.log({"a": 3})  # 3
    run.log({"a": 5}, step=5)
    run.log({"b": 5}, step=5)  # 5, both
    run.log({"c": 0}, step=4)  # refused
    run.log({"a": 7}, step=7, commit=True)  # 7
    run.log({"c": 0}, step=7)  # refused: 7 is committed
    run.log({"a": 8}, commit=False)
    run.log({})  # 8
    run.log({"a": 20}, step=20)  # 20, open until the end
    run.finish()


def described() -> None:
    run = _init(
        "described",
        entity="team",
        group="a group",
        job_type="train",
        notes="two\nlines",
        tags=["x", "y"],
        config={"lr": 0.1, "net": {"depth": 2, "width": 8}},
        resume="allow",
    )
    run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric="epoch", summary="max")
    run.config.update({"late": [1, 2]})  # type: ignore[no-untyped-call]
    run.config.update({"lr": 0.2}, allow_val_change=True)  # type: ignore[no-untyped-call]
    run.log({"epoch": 1, "val/acc": 0.5})
    run.log({"epoch": 2, "val/acc": 0.25})
    run.summary["best"] = 7
    run.summary.update({"nested": {"k": 1}})
    with open("kept.txt", "w") as file:
        file.write("content")
    run.save("kept.txt", policy="now")
    artifact = wandb.Artifact("model", "model")
    artifact.add_file("kept.txt")
    run.log_artifact(artifact, aliases=["best"])
    run.alert("title", "text")
    print("a line on the console")
    run.finish(exit_code=3)


def large() -> None:
    """Records around and beyond the block size, so that every way of cutting a record occurs."""
    run = _init("large")
    for size in (10, 30_000, 32_000, 32_768, 40_000, 200_000, 3_000_000):
        run.log({"blob": "x" * size, "size": size})
    for value in range(700):
        run.log({"pad": "y" * (value * 37 % 300), "n": value})
    run.finish()


def killed() -> None:
    run = _init("killed")
    for value in range(5):
        run.log({"a": value})
    run.log({"open": 1}, step=9)
    time.sleep(FLUSHED_S)
    os.kill(os.getpid(), signal.SIGKILL)


def many_files() -> None:
    """More entries than wandb puts into the log itself: its manifest lies in a file of its own."""
    from wandb.sdk.interface import interface

    interface.MANIFEST_FILE_SIZE_THRESHOLD = 2
    run = _init("manyfiles")
    artifact = wandb.Artifact("many", "dataset")
    for number in range(5):
        with artifact.new_file(f"{number}.txt") as file:
            file.write(str(number))
    run.log_artifact(artifact)
    run.finish()


PROGRAMS = {program.__name__: program for program in (small, values, calls, described, large, killed, many_files)}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        PROGRAMS[name]()
