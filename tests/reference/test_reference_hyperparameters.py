"""Which source of a hyperparameter wins, and what is said about a bad value."""

from __future__ import annotations

from pathlib import Path

import pytest

from wandb_spool.runner.reference.errors import Mistake
from wandb_spool.runner.reference.flags import parse
from wandb_spool.runner.reference.hyperparameters import BUILT_IN, Chosen, Hyperparameters, chosen, read_yaml


def choose(*argv: str) -> Chosen:
    flags = parse(argv)
    return chosen(flags.config_file, flags.hyperparameters)


def write(name: str, text: str) -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def test_without_any_choice_the_config_is_exactly_the_documented_one() -> None:
    assert choose().at_init == {
        "epochs": 5,
        "classes": 10,
        "kernels": [16, 32],
        "batch_size": 128,
        "learning_rate": 0.005,
        "dataset": "digits",
        "architecture": "CNN",
    }
    assert choose().after_init == {}


def test_flags_beat_the_named_file_which_beats_config_defaults_which_beats_the_built_in_values() -> None:
    write("config-defaults.yaml", "wandb_version: 1\nepochs: {desc: passes, value: 2}\nbatch_size: {value: 32}\n")
    named = write("mine.yaml", "batch_size: {desc: null, value: 64}\nkernels: {value: [4, 8]}\n")
    parameters = choose("--config", str(named), "--kernels", "2,3").parameters
    assert (parameters.epochs, parameters.batch_size, parameters.kernels) == (2, 64, (2, 3))
    assert parameters.learning_rate == BUILT_IN["learning_rate"]


def test_what_contradicts_config_defaults_is_set_after_init_because_wandb_disabled_would_refuse_it() -> None:
    write("config-defaults.yaml", "epochs: {value: 2}\nbatch_size: {value: 32}\n")
    choice = choose("--epochs", "3")
    assert "epochs" not in choice.at_init
    assert choice.at_init["batch_size"] == 32
    assert choice.after_init == {"epochs": 3}


def test_keys_of_the_users_own_reach_the_config() -> None:
    write("config-defaults.yaml", "note: {value: warm}\n")
    assert choose().at_init["note"] == "warm"


def test_the_config_that_wandb_wrote_for_an_earlier_run_can_be_used_again() -> None:
    earlier = write("config.yaml", "wandb_version: 1\n_wandb: {desc: null, value: {m: []}}\nepochs: {value: 3}\n")
    assert choose("--config", str(earlier)).parameters.epochs == 3
    assert "_wandb" not in choose("--config", str(earlier)).at_init


def test_the_spelling_of_flags_that_a_sweep_uses_is_understood() -> None:
    parameters = choose("--batch_size=16", "--learning_rate=0.1").parameters
    assert (parameters.batch_size, parameters.learning_rate) == (16, 0.1)


def test_a_dataset_is_found_in_any_case_and_recorded_in_its_own() -> None:
    assert choose("--dataset", "fashionmnist").at_init["dataset"] == "FashionMNIST"


@pytest.mark.parametrize(
    ("key", "value", "meant"), [("learning_rate", "5e-3", 0.005), ("epochs", 3.0, 3), ("kernels", (4,), (4,))]
)
def test_numbers_in_the_forms_of_yaml_and_sweeps_are_welcome(key: str, value: object, meant: object) -> None:
    assert vars(Hyperparameters.of({**BUILT_IN, key: value}))[key] == meant


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("epochs", "many"),
        ("batch_size", -1),
        ("batch_size", None),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", True),
        ("learning_rate", []),
        ("classes", 9),
        ("kernels", []),
        ("kernels", "16"),
        ("kernels", [16, 0]),
        ("kernels", [1, 2, 3, 4, 5]),
        ("dataset", "ImageNet"),
        ("architecture", "transformer"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_the_value(key: str, value: object) -> None:
    with pytest.raises(Mistake, match=key):
        Hyperparameters.of({**BUILT_IN, key: value})


@pytest.mark.parametrize(
    "text", ["epochs: 5\n", "- epochs\n", "epochs: {desc: no value}\n", "epochs: {value: [1\n", "\xff"]
)
def test_a_file_in_another_form_is_told_by_name_in_one_line(text: str) -> None:
    Path("mine.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(Mistake, match=r"mine\.yaml") as caught:
        read_yaml(Path("mine.yaml"))
    assert "\n" not in str(caught.value)


def test_an_empty_file_says_nothing() -> None:
    assert read_yaml(write("config-defaults.yaml", "")) == {}
