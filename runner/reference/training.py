"""Train, test and keep one model, logging to a W&B run as a user's script does.

`train` reads its hyperparameters back from the run's config, so whatever set them there counts. What it
logs:

* row by number of examples seen (`step=`): every 25th batch `epoch` and `loss`; at each epoch's end
  `epoch_loss`, which is charted over `epoch`; in the last row, written in two calls, `test_accuracy`, a
  table of test images and a confusion matrix. `watch` adds histograms of gradients and parameters every
  10th batch to the row that is open then;
* summary: `test_accuracy`;
* files: `model.onnx` (or `model.pt` without ONNX), and a model artifact with all model files.

The same seed on the same CPU gives the same numbers. On CUDA, W&B's own histograms and some kernels may
differ in the last digits.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import wandb
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from wandb_spool.runner.reference.datasets import Example, Examples, load, size_of
from wandb_spool.runner.reference.errors import Mistake
from wandb_spool.runner.reference.hyperparameters import BUILT_IN, Hyperparameters
from wandb_spool.runner.reference.network import ConvNet

LOG_EVERY_BATCHES = 25
WATCH_EVERY_BATCHES = 10
TEST_BATCH_SIZE = 256
TABLE_IMAGES = 32


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    test_accuracy: float
    examples_seen: int
    model_files: tuple[Path, ...]


@dataclass(frozen=True)
class _Tested:
    predicted: list[int]
    actual: list[int]

    @property
    def accuracy(self) -> float:
        return sum(p == a for p, a in zip(self.predicted, self.actual, strict=True)) / len(self.actual)


def train(
    run: wandb.Run,
    *,
    data_dir: Path = Path("data"),
    device: str = "auto",
    seed: int = 0,
    out_dir: Path | None = None,
    onnx: bool = True,
    loaded: Examples | None = None,
) -> Outcome:
    """Train what `run.config` says. `loaded` is used instead of a second reading if it is that dataset."""
    run.config.setdefaults(dict(BUILT_IN))  # type: ignore[no-untyped-call]
    parameters = Hyperparameters.of(dict(run.config))
    examples = loaded if loaded and loaded.name == parameters.dataset else load(parameters.dataset, data_dir)
    chosen_device = pick_device(device)
    seed_everything(seed)
    model = ConvNet(examples.image_shape, parameters.kernels, parameters.classes).to(chosen_device)
    _say(
        f"{parameters.architecture} on {parameters.dataset}: {size_of(examples.train)} examples, "
        f"{size_of(examples.test)} test images, {chosen_device}"
    )
    examples_seen = _Fit(run, model, parameters, chosen_device).over(examples.train, seed)
    tested = _test(model, examples.test, chosen_device)
    _log_test(run, examples.named(parameters.classes), tested, examples_seen)
    files = _write_model(model, examples.image_shape, out_dir or Path(run.dir), onnx=onnx)
    _keep_model(run, files, parameters, {"seed": seed, "test_accuracy": tested.accuracy})
    return Outcome(tested.accuracy, examples_seen, files)


def pick_device(wanted: str) -> torch.device:
    """The device by that name; for `auto` the fastest kind that is there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _mps() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise Mistake(f"device must be auto, cpu, cuda, cuda:N or mps, not {wanted!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Mistake(f"device {wanted} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not _mps():
        raise Mistake("device mps is not there")
    if device.type not in ("cpu", "cuda", "mps"):
        raise Mistake(f"device must be auto, cpu, cuda, cuda:N or mps, not {wanted!r}")
    return device


def _mps() -> bool:
    return torch.backends.mps.is_available()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@dataclass
class _Fit:
    """One training from the first batch to the last."""

    run: wandb.Run
    model: nn.Module
    parameters: Hyperparameters
    device: torch.device
    examples_seen: int = 0
    batches_seen: int = 0
    criterion: nn.Module = field(default_factory=nn.CrossEntropyLoss)

    def over(self, dataset: Dataset[Example], seed: int) -> int:
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(dataset, self.parameters.batch_size, shuffle=True, generator=order)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.parameters.learning_rate)
        self.run.define_metric("epoch")
        self.run.define_metric("epoch_loss", step_metric="epoch")
        self.run.watch(self.model, self.criterion, log="all", log_freq=WATCH_EVERY_BATCHES)
        # disable=None: a bar on a terminal, nothing elsewhere.
        for epoch in tqdm(range(1, self.parameters.epochs + 1), desc="epochs", unit="epoch", disable=None):
            self._epoch(epoch, loader, optimizer)
        # Its hooks would also fire in the test and in the ONNX exporter's trace.
        self.run.unwatch(self.model)
        return self.examples_seen

    def _epoch(self, epoch: int, loader: DataLoader[Example], optimizer: torch.optim.Optimizer) -> None:
        self.model.train()
        loss_sum = torch.zeros((), device=self.device)
        examples_before = self.examples_seen
        for images, labels in loader:
            loss = self._batch(images.to(self.device), labels.to(self.device), optimizer)
            loss_sum += loss * len(images)
            self.examples_seen += len(images)
            self.batches_seen += 1
            if self.batches_seen % LOG_EVERY_BATCHES == 0:
                self._log_batch(epoch, loss.item())
        epoch_loss = loss_sum.item() / (self.examples_seen - examples_before)
        self.run.log({"epoch": epoch, "epoch_loss": epoch_loss}, step=self.examples_seen)
        _say(f"Epoch {epoch} of {self.parameters.epochs}: mean loss {epoch_loss:.4f}")

    def _batch(self, images: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        loss: torch.Tensor = self.criterion(self.model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def _log_batch(self, epoch: int, loss: float) -> None:
        self.run.log({"epoch": epoch, "loss": loss}, step=self.examples_seen)
        _say(f"Loss after {self.examples_seen:06d} examples: {loss:.4f}")


def _test(model: nn.Module, dataset: Dataset[Example], device: torch.device) -> _Tested:
    predicted: list[int] = []
    actual: list[int] = []
    model.eval()
    with torch.no_grad():
        for images, labels in DataLoader(dataset, TEST_BATCH_SIZE):
            predicted += model(images.to(device)).argmax(dim=1).tolist()
            actual += labels.tolist()
    return _Tested(predicted, actual)


def _log_test(run: wandb.Run, examples: Examples, tested: _Tested, examples_seen: int) -> None:
    # One row in two calls: the first leaves it open, the second closes it.
    run.log({"test_accuracy": tested.accuracy}, step=examples_seen, commit=False)
    matrix = wandb.plot.confusion_matrix(
        y_true=tested.actual,
        preds=tested.predicted,
        class_names=list(examples.labels),
        title="Confusion matrix",
    )
    charts = {"predictions": _predictions(examples, tested), "confusion_matrix": matrix}
    run.log(charts, step=examples_seen, commit=True)
    run.summary["test_accuracy"] = tested.accuracy
    _say(f"Accuracy on the {len(tested.actual)} test images: {tested.accuracy:.2%}")


def _predictions(examples: Examples, tested: _Tested) -> wandb.Table:
    table = wandb.Table(columns=["image", "predicted", "actual"])
    # Evenly spread: the embedded digits are sorted.
    count = min(TABLE_IMAGES, len(tested.actual))
    for index in np.linspace(0, len(tested.actual) - 1, count).astype(int).tolist():
        image, _ = examples.test[index]
        pixels = (image * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        names = (examples.labels[label] for label in (tested.predicted[index], tested.actual[index]))
        table.add_data(wandb.Image(pixels), *names)
    return table


def _write_model(
    model: nn.Module, image_shape: tuple[int, int, int], directory: Path, *, onnx: bool
) -> tuple[Path, ...]:
    # Here, not above: without ONNX nobody needs its packages, and it takes a second to import.
    from wandb_spool.runner.reference.export import export_onnx, save_weights

    weights = save_weights(model, directory / "model.pt")
    return (export_onnx(model, image_shape, directory / "model.onnx"), weights) if onnx else (weights,)


def _keep_model(run: wandb.Run, files: tuple[Path, ...], parameters: Hyperparameters, facts: dict[str, object]) -> None:
    first = files[0]
    run.save(str(first), base_path=str(first.parent))
    artifact = wandb.Artifact(
        f"{parameters.dataset.lower()}-{parameters.architecture.lower()}",
        type="model",
        metadata={**parameters.as_config(), **facts},
    )
    for file in files:
        artifact.add_file(str(file))
    # Not `.wait()`: offline there is nothing to wait for, and it raises.
    run.log_artifact(artifact)
    _say(f"Model: {first}")


def _say(line: str) -> None:
    tqdm.write(line)  # above the bar, if there is one
    sys.stdout.flush()  # under a launcher the output is a pipe, and people watch it
