"""Hyperparameters: where they come from, which source wins, and what they must look like.

A value is taken from the first of these that names it:

1. what a sweep or a launch job chose: W&B locks those keys, and nothing else can change them;
2. flags;
3. `--config FILE`;
4. `config-defaults.yaml` in the working directory;
5. `BUILT_IN`.

Left alone, W&B lets `wandb.init(config=…)` beat `config-defaults.yaml`, so a script that passes built-in values would
silence its user's file. `chosen` therefore lays 4 and 3 over 5 *before* they go to `wandb.init`. What contradicts
`config-defaults.yaml` goes into the run's config *after* `wandb.init` (`Chosen.after_init`): with `mode="disabled"` W&B
takes a contradiction for an error. So do the flags, which would lose to W&B's own setting `config_paths`. What the run
then says is what is trained: `Hyperparameters.of(run.config)`.

A program that calls `train(run)` itself may assign (`run.config.epochs = 2`) or `run.config.update({…})`
first; what it leaves unsaid is filled from `BUILT_IN`. To *change* a value that the run already has, W&B
asks for `run.config.update({…}, allow_val_change=True)`.

Both YAML files have the form `epochs: {desc: passes over the data, value: 5}`, with an optional
`wandb_version: 1`. Keys that the pipeline doesn't know are handed to the run's config untouched. Every
bad value is a `Mistake` that names the key, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from wandb_spool.runner.reference.errors import Mistake

BUILT_IN: Mapping[str, object] = MappingProxyType(
    {
        "epochs": 5,
        "classes": 10,
        "kernels": [16, 32],
        "batch_size": 128,
        "learning_rate": 0.005,
        "dataset": "digits",
        "architecture": "CNN",
    }
)
DATASETS = ("digits", "MNIST", "FashionMNIST", "CIFAR10")
LABELS = 10  # every dataset above has this many
MAX_BLOCKS = 4  # each block halves the image: 28 pixels are one pixel after four
DEFAULTS_FILE = Path("config-defaults.yaml")


@dataclass(frozen=True)
class Hyperparameters:
    """What is trained. Built by `of`, which also checks it."""

    epochs: int
    classes: int
    kernels: tuple[int, ...]
    batch_size: int
    learning_rate: float
    dataset: str
    architecture: str

    @classmethod
    def of(cls, config: Mapping[str, object]) -> Hyperparameters:
        return cls(
            epochs=_count("epochs", config["epochs"]),
            classes=_classes(config["classes"]),
            kernels=_kernels(config["kernels"]),
            batch_size=_count("batch_size", config["batch_size"]),
            learning_rate=_rate("learning_rate", config["learning_rate"]),
            dataset=_dataset(config["dataset"]),
            architecture=_architecture(config["architecture"]),
        )

    def as_config(self) -> dict[str, object]:
        return {**vars(self), "kernels": list(self.kernels)}


@dataclass(frozen=True)
class Chosen:
    """Every layer that is known before a run exists, checked."""

    parameters: Hyperparameters
    at_init: dict[str, object]
    after_init: dict[str, object]


def chosen(config_file: Path | None, flags: Mapping[str, object]) -> Chosen:
    defaults = read_yaml(DEFAULTS_FILE) if DEFAULTS_FILE.exists() else {}
    named = read_yaml(config_file) if config_file is not None else {}
    layers = {**BUILT_IN, **defaults, **named, **flags}
    parameters = Hyperparameters.of(layers)
    config = {**layers, **parameters.as_config()}
    contradicting = {key for key in defaults if defaults[key] != config[key]}
    return Chosen(
        parameters,
        at_init={key: value for key, value in config.items() if key not in contradicting},
        after_init={key: value for key, value in config.items() if key in contradicting or key in flags},
    )


def read_yaml(file: Path) -> dict[str, object]:
    """The values of a file in the form of W&B's `config-defaults.yaml`; empty for an empty file."""
    try:
        text = file.read_text(encoding="utf-8")
        loaded = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"can't read {file}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise Mistake(f"{file} is not YAML: {_one_line(error)}") from error
    return _values(file, {} if loaded is None else loaded)


def _values(file: Path, loaded: object) -> dict[str, object]:
    if not isinstance(loaded, dict):
        raise Mistake(f"{file} holds no keys; write each as `epochs: {{value: 5}}`")
    entries = {str(key): entry for key, entry in loaded.items() if not _is_wandbs_own(str(key))}
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "value" not in entry:
            raise Mistake(f"{file}: {key} has no `value`; write it as `{key}: {{value: …}}`")
    return {key: entry["value"] for key, entry in entries.items()}


def _is_wandbs_own(key: str) -> bool:
    # `_wandb` is in the config.yaml of an earlier run, which is welcome as `--config`.
    return key == "wandb_version" or key.startswith("_")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _count(key: str, value: object) -> int:
    # A sweep's quantized distributions and JSON hand whole numbers over as 5.0.
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
    if not whole or int(value) < 1:  # type: ignore[call-overload]  # `whole` says that it is a number
        raise Mistake(f"{key} must be a whole number of 1 or more, not {value!r}")
    return int(value)  # type: ignore[call-overload,no-any-return]


def _rate(key: str, value: object) -> float:
    try:
        rate = float(value)  # type: ignore[arg-type]  # YAML 1.1 reads 5e-3 as text: text is welcome
    except (TypeError, ValueError):
        rate = math.nan
    if isinstance(value, bool) or not math.isfinite(rate) or rate <= 0:
        raise Mistake(f"{key} must be a number above 0, not {value!r}")
    return rate


def _classes(value: object) -> int:
    classes = _count("classes", value)
    if classes < LABELS:
        raise Mistake(f"classes must be {LABELS} or more: every dataset has {LABELS} labels, not {classes}")
    return classes


def _kernels(value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not 1 <= len(value) <= MAX_BLOCKS:
        raise Mistake(f"kernels must list the channels of 1 to {MAX_BLOCKS} blocks, like 16,32, not {value!r}")
    return tuple(_count("each of kernels", channels) for channels in value)


def _dataset(value: object) -> str:
    for dataset in DATASETS:
        if dataset.lower() == str(value).lower():
            return dataset
    raise Mistake(f"dataset must be one of {', '.join(DATASETS)}, not {value!r}")


def _architecture(value: object) -> str:
    if value != BUILT_IN["architecture"]:
        raise Mistake(f"architecture must be {BUILT_IN['architecture']}, the one that this pipeline has, not {value!r}")
    return str(value)
