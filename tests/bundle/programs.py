"""Programs that train with the real wandb, for the tests of bundles."""

from __future__ import annotations

TRAIN = """
import os
import numpy as np
import wandb
import wandb.sdk.interface.interface as interface

run = wandb.init(project="gap", config={"lr": 0.1, "nested": {"depth": 2}})
for step in range(50):
    row = {"loss": 1 / (step + 1.5), "epoch": step // 10, "name": f"row {step}", "nested": {"x": step * 0.25}}
    if step == 7:
        row["image"] = wandb.Image(np.full((8, 8, 3), 90, dtype=np.uint8))
    if step == 9:
        row["table"] = wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]])
    run.log(row)
print("a line on the console")
open("saved.txt", "w").write("what was saved")
run.save("saved.txt", policy="now")

model = wandb.Artifact("model", "model")
os.makedirs("weights", exist_ok=True)
open("weights/layer one.bin", "wb").write(os.urandom(300_000))
open("weights/layer.json", "w").write("{}")
model.add_dir("weights")
open("outside.bin", "wb").write(os.urandom(2000))
model.add_file(os.path.abspath("outside.bin"), policy="immutable")
run.log_artifact(model)

interface.MANIFEST_FILE_SIZE_THRESHOLD = 1  # as for an artifact of more than a hundred thousand files
many = wandb.Artifact("many", "dataset")
for number in range(5):
    with many.new_file(f"part-{number}.txt") as stream:
        stream.write("part " * number)
run.log_artifact(many)
run.finish()
"""

SMALL = """
import sys, wandb
run = wandb.init(project="gap", id=sys.argv[1], resume="allow")
for step in range(int(sys.argv[2]), int(sys.argv[3])):
    run.log({"value": step * 0.5 + float(sys.argv[4])}, step=step)
run.finish()
"""
