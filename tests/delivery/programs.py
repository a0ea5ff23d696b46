# ruff: noqa: E501 - rows of values are easier to compare on one line
"""What the runs of these tests log; run by the real launcher in a process of its own.

`python programs.py SHAPE…` makes one run a shape, with the shape's name as its id.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy
import wandb


def _rows(name: str, steps: range, shift: float = 0.0, **arguments: Any) -> None:
    run = wandb.init(project="delivery", id=name, name=f"the {name}", config={"lr": 0.1, "shape": name}, **arguments)
    for step in steps:
        run.log({"loss": step + shift, "n": {"v": step * step}}, step=step)
    run.finish()


def tiny() -> None:
    _rows("tiny", range(20))


def thousand() -> None:
    _rows("thousand", range(1000))


def front() -> None:
    """The first fragment of a run that is restarted from a checkpoint of step 80."""
    _rows("front", range(100), resume="allow")


def rear() -> None:
    _rows("rear", range(80, 180), 0.5, resume="allow")


def third() -> None:
    """A second restart, again from an earlier checkpoint than the fragment before had reached."""
    _rows("third", range(150, 200), 0.25, resume="allow")


def rich() -> None:
    """Everything that a run may own beside its rows."""
    run = wandb.init(
        project="delivery", id="rich", config={"net": {"depth": 2}, "lr": 0.1}, tags=["a"], notes="two\nlines"
    )
    Path("model.bin").write_bytes(os.urandom(5000))
    Path("we [ird] näme.txt").write_text("content")
    run.save("model.bin", policy="end")
    run.save("we [[]ird] näme.txt", policy="now")
    artifact = wandb.Artifact("model", "model")
    artifact.add_file("model.bin")
    run.log_artifact(artifact, aliases=["best"])
    for step in range(10):
        run.log({"loss": 1 / (step + 1)})
    run.log({"table": wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "ü"]])})
    run.log({"picture": wandb.Image(numpy.zeros((4, 4, 3), dtype=numpy.uint8))})
    run.alert("look", "something happened")
    print("a line on the console")
    run.finish()


def values() -> None:
    """What real programs log: nothing of it may look different when it is read back."""
    run = wandb.init(
        project="delivery",
        id="values",
        config={
            "none": None, "tuple": (1, 2), "numpy": numpy.float32(0.1), "array": numpy.arange(3), "nested": {"a": {"b": [1, {"c": None}]}},
            "nan": float("nan"), "inf": math.inf, "a.b": 1, "a/b": 2, "ключ": "зна́чение", "": "empty key", "long": "x" * 100_000,
            "big": 2**60 + 1, "truth": True, "whole": 3.0, "empty": {}, "list": [], "class": int, "callable": print, "int key": {1: "one"},
            "path": Path("/a/b"), "set": {1}, "bytes": b"abc",
        },
    )  # fmt: skip
    run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric="epoch", summary="max")
    run.define_metric("low", summary="min")
    run.define_metric("best", goal="minimize", summary="best")  # type: ignore[call-arg]  # gone from newer releases
    run.define_metric("quiet", summary="none")
    run.define_metric("both", summary="min,max,mean,last,first")
    for epoch in range(3):
        run.log(
            {
                "epoch": epoch,
                "val/acc": 0.5 - epoch / 10,
                "low": epoch - 1,
                "best": 1 - epoch,
                "quiet": epoch,
                "both": epoch,
            }
        )
    run.log({"flat": 1, "n": {"a": 1, "b": {"c": [1, 2.0, {"x": {"y": 1}}]}}, "dotted.key": 5, "slashed/key": 6})
    run.log({"nan": float("nan"), "inf": float("inf"), "ninf": float("-inf"), "list": [float("nan"), 1]})
    run.log({"text": "héllo\n\"'\u2028\x00😀", "none": None, "yes": True, "empty": {}, "ключ": [], "tuple": (1, 2)})
    run.log({"third": 1 / 3, "whole": 3.0, "tiny": 5e-324, "huge": 1e300, "p53": 2**53 - 1, "p70": 2**70, "-0": -0.0})
    run.log(
        {
            "histogram": wandb.Histogram([1, 2, 3]),
            "f32": numpy.float32(0.1),
            "i64": numpy.int64(7),
            "array": numpy.arange(4.0),
        }
    )
    run.log({"long": "x" * 100_000, "wide": {f"k{i}": i for i in range(300)}, "large array": numpy.arange(100.0)})
    run.log(
        {
            "html": wandb.Html("<b>x</b>"),
            "with spaces ": 1,
            "a" * 300: 2,
            "date": __import__("datetime").datetime(2026, 1, 2),
        }
    )
    run.summary["best so far"] = 7
    run.summary.update(
        {"nested": {"k": 1, "n": float("nan")}, "list": [1, 2], "none": None, "text": "ü", "numpy": numpy.float32(0.1)}
    )
    run.summary["flat"] = "overridden by hand"
    run.finish()


SHAPES = {program.__name__: program for program in (tiny, thousand, front, rear, third, rich, values)}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        SHAPES[name]()
