"""The flags of the pipeline. A flag that can't be understood is a `Mistake`, not argparse's page of usage."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from wandb_spool.runner.reference.errors import PROGRAM, Mistake
from wandb_spool.runner.reference.hyperparameters import DATASETS

HYPERPARAMETERS = ("epochs", "batch_size", "learning_rate", "kernels", "dataset")


@dataclass(frozen=True)
class Flags:
    """What the command line said."""

    hyperparameters: Mapping[str, object]  # only those that were given: the others have lower layers
    config_file: Path | None
    project: str | None
    name: str | None
    seed: int
    device: str
    data_dir: Path
    out_dir: Path | None
    onnx: bool
    download: bool
    stage_only: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message} (see {PROGRAM} --help)")


def parse(argv: Sequence[str] | None) -> Flags:
    given = vars(_parser().parse_args(argv))
    hyperparameters = {key: given.pop(key) for key in HYPERPARAMETERS}
    return Flags(hyperparameters={k: v for k, v in hyperparameters.items() if v is not None}, **given)


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,  # an abbreviation that works today would be ambiguous after the next flag
        description="Train a small convolutional classifier and log it to W&B.",
        epilog="Flags beat --config, which beats ./config-defaults.yaml, which beats the built-in values.",
    )
    _add_hyperparameters(parser.add_argument_group("hyperparameters"))
    _add_run(parser.add_argument_group("run"))
    _add_data(parser.add_argument_group("data"))
    return parser


def _add_hyperparameters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dataset", help=f"one of {', '.join(DATASETS)}; digits is embedded (default digits)")
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the training set (default 5)")
    # The spelling with underscores is the one in which a W&B sweep writes its flags.
    group.add_argument("--batch-size", "--batch_size", type=int, metavar="N", help="examples a step (default 128)")
    group.add_argument("--learning-rate", "--learning_rate", type=float, metavar="X", help="default 0.005")
    group.add_argument("--kernels", type=_channels, metavar="N,N", help="channels of each block (default 16,32)")
    group.add_argument(
        "--config",
        dest="config_file",
        type=Path,
        metavar="FILE",
        help="YAML in the form of config-defaults.yaml",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--project", help="W&B project (default WANDB_PROJECT, else wandb-spool-reference)")
    group.add_argument("--name", help="the run's name")
    group.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of every generator (default 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    group.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help="where the model files go, replacing older ones (default the run's own files directory)",
    )
    group.add_argument("--no-onnx", dest="onnx", action="store_false", help="leave out the ONNX export")


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="torchvision's root (default ./data)",
    )
    group.add_argument("--download", action="store_true", help="fetch the dataset if it is not there")
    group.add_argument("--stage-only", action="store_true", help="see that the dataset is there, train nothing")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**32 - 1, not {text!r}")
    return int(text)


def _channels(text: str) -> list[int]:
    try:
        return [int(channels) for channels in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers like 16,32, not {text!r}") from None
