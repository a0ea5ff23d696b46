"""The datasets: what is embedded, what torchvision reads, and what is said when data is not there."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from wandb_spool.runner.reference.datasets import Examples, load, size_of, stage
from wandb_spool.runner.reference.errors import Mistake
from wandb_spool.runner.reference.network import ConvNet

from .staged import stage_idx


def labels(examples: Examples) -> tuple[list[int], list[int]]:
    train, test = ([int(part[index][1]) for index in range(size_of(part))] for part in (examples.train, examples.test))
    return train, test


def test_the_embedded_digits_are_4000_to_train_and_1000_to_test_with_a_fair_share_of_each() -> None:
    train, test = labels(load("digits", Path("nowhere")))
    assert Counter(train) == dict.fromkeys(range(10), 400)
    assert Counter(test) == dict.fromkeys(range(10), 100)


def test_the_embedded_digits_are_images_from_0_to_1_and_always_the_same() -> None:
    first, second = load("digits", Path("nowhere")), load("digits", Path("nowhere"))
    assert first.image_shape == (1, 28, 28)
    images = torch.stack([first.train[index][0] for index in range(0, 4000, 100)])
    assert (images.min().item(), images.max().item()) == (0, 1)
    assert torch.equal(images, torch.stack([second.train[index][0] for index in range(0, 4000, 100)]))


def test_reading_the_embedded_digits_loads_no_heavy_package() -> None:
    program = (
        "import sys; from pathlib import Path; from wandb_spool.runner.reference.datasets import load; "
        "load('digits', Path('nowhere')); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pandas", "scipy", "matplotlib", "sklearn", "mlxtend", "torchvision"} & set(done.stdout.split())


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_of_staged_files_every_fifth_example_is_used(tmp_path: Path, name: str) -> None:
    stage_idx(tmp_path, name, train=50, test=20)
    examples = load(name, tmp_path)
    assert labels(examples) == ([0, 5] * 5, [0, 5, 0, 5])
    assert examples.image_shape == (1, 28, 28)
    assert examples.train[3][0].max().item() == pytest.approx(15 / 255)
    assert len(examples.labels) == 10


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_missing_data_is_told_in_one_line_that_ends_in_the_command_that_stages_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(Mistake) as caught:
        load(name, tmp_path / "my data")
    command = f"wandb-spool train --dataset {name} --data-dir '{tmp_path}/my data' --download --stage-only"
    assert str(caught.value).endswith(command)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size_bytes", [0, 3, 1000])
def test_data_that_was_cut_short_is_told_like_missing_data(tmp_path: Path, size_bytes: int) -> None:
    images = stage_idx(tmp_path, "MNIST", train=50, test=20) / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:size_bytes])
    with pytest.raises(Mistake, match="--stage-only"):
        load("MNIST", tmp_path)


def test_staging_what_is_already_there_asks_no_network(tmp_path: Path) -> None:
    stage_idx(tmp_path, "MNIST", train=10, test=10)
    stage("MNIST", tmp_path)
    stage("digits", tmp_path)
    assert size_of(load("MNIST", tmp_path).train) == 2


@pytest.mark.parametrize(("image_shape", "linear_inputs"), [((1, 28, 28), 7 * 7 * 32), ((3, 32, 32), 8 * 8 * 32)])
def test_the_network_fits_the_images_of_every_dataset(image_shape: tuple[int, int, int], linear_inputs: int) -> None:
    network = ConvNet(image_shape, kernels=(16, 32), classes=10)
    assert network.linear.in_features == linear_inputs
    assert network(torch.zeros(3, *image_shape)).shape == (3, 10)


def test_an_image_survives_four_blocks() -> None:
    assert ConvNet((1, 28, 28), (2, 2, 2, 2), 10)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
