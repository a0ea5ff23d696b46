"""The trained model as files that stand alone.

`export_onnx` leaves exactly one file, weights inside, that `onnx.checker` accepts; torch's exporter by
default writes the weights into a second file, and whoever saves only the first has lost the model. Both
functions write beside the target and rename: a program that serves the old file never sees half of the
new one, and W&B runs that hold a hard link to the old file keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import nn

from wandb_spool.runner.reference.errors import PipelineError


def export_onnx(model: nn.Module, image_shape: tuple[int, int, int], target: Path) -> Path:
    """Images in any number go in, as `images`; one score per class comes out, as `scores`."""
    # A batch of two: the exporter takes a batch of one for a constant.
    images = torch.zeros(2, *image_shape, device=next(model.parameters()).device)
    model.eval()

    def write(file: Path) -> None:
        torch.onnx.export(
            model,
            (images,),
            file,
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        check_self_contained(file)

    return _write_beside(target, write)


def check_self_contained(file: Path) -> None:
    """Raise unless the file is a valid model with all of its weights inside."""
    model = onnx.load(str(file), load_external_data=False)
    outside = [
        weights.name for weights in model.graph.initializer if weights.data_location == onnx.TensorProto.EXTERNAL
    ]
    if outside or not model.graph.initializer:
        raise PipelineError(f"{file.name} does not hold its weights: {', '.join(outside) or 'there are none'}")
    onnx.checker.check_model(str(file), full_check=True)


def save_weights(model: nn.Module, target: Path) -> Path:
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    return _write_beside(target, lambda file: torch.save(weights, file))


def _write_beside(target: Path, write: Callable[[Path], None]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        write(Path(scratch) / target.name)
        (Path(scratch) / target.name).replace(target)
    return target
