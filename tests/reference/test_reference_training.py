"""`train` on a run of one's own: what counts is what the run's config says when training begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from wandb_spool.runner.reference.datasets import load
from wandb_spool.runner.reference.errors import Mistake
from wandb_spool.runner.reference.hyperparameters import BUILT_IN
from wandb_spool.runner.reference.training import Outcome, pick_device, train

from .conftest import log_rows
from .staged import stage_idx

SMALL = {"epochs": 1, "kernels": [2, 2]}


def config_of(run: wandb.Run) -> dict[str, object]:
    return {key: value for key, value in dict(run.config).items() if not key.startswith("_")}


def losses(run_dir: str) -> list[tuple[int, object]]:
    rows = log_rows(Path(run_dir).parent)
    return [(row.step, value) for row in rows for key, value in row.values.items() if key in ("loss", "epoch_loss")]


def small_training(seed: int) -> tuple[Outcome, list[tuple[int, object]]]:
    with wandb.init(project="tests", config=SMALL) as run:
        outcome = train(run, seed=seed, onnx=False)
    return outcome, losses(run.dir)


def test_what_was_assigned_or_updated_before_training_is_trained_and_the_rest_is_built_in() -> None:
    with wandb.init(project="tests") as run:
        run.config.epochs = 2  # type: ignore[attr-defined]
        run.config.update({"batch_size": 500})  # type: ignore[no-untyped-call]
        run.config["kernels"] = [2]
        outcome = train(run, onnx=False)
        assert config_of(run) == {**BUILT_IN, "epochs": 2, "batch_size": 500, "kernels": [2]}
    assert outcome.examples_seen == 2 * 4000
    assert [step for step, _ in losses(run.dir)] == [4000, 8000]  # 16 batches of 500: none is the 25th


def test_a_changed_value_of_the_config_is_what_is_trained() -> None:
    with wandb.init(project="tests", config=dict(BUILT_IN)) as run:
        run.config.update({**SMALL, "batch_size": 1000}, allow_val_change=True)  # type: ignore[no-untyped-call]
        assert train(run, onnx=False).examples_seen == 4000
        assert config_of(run)["batch_size"] == 1000


def test_the_dataset_of_the_config_is_trained_whatever_was_loaded_before(tmp_path: Path) -> None:
    stage_idx(tmp_path, "MNIST", train=50, test=20)
    with wandb.init(project="tests", config={**SMALL, "dataset": "MNIST"}) as run:
        outcome = train(run, data_dir=tmp_path, onnx=False, loaded=load("digits", tmp_path))
    assert outcome.examples_seen == 10


def test_more_classes_than_labels_can_be_trained_and_charted() -> None:
    with wandb.init(project="tests", config={**SMALL, "classes": 12}) as run:
        train(run, onnx=False)
    assert "confusion_matrix_table.path" in log_rows(Path(run.dir).parent)[-1].values


def test_the_same_seed_gives_the_same_losses_and_another_seed_gives_others() -> None:
    first, second, other = small_training(7), small_training(7), small_training(8)
    assert first[1] == second[1]
    assert first[0].test_accuracy == second[0].test_accuracy
    assert first[1] != other[1]


def test_without_a_directory_the_model_goes_into_the_runs_own_files_so_that_runs_never_share_one() -> None:
    first, second = small_training(7)[0].model_files, small_training(7)[0].model_files
    assert first != second
    assert all(file.is_file() and file.parent.name == "files" for file in (*first, *second))


def test_without_onnx_the_weights_are_saved_instead() -> None:
    assert [file.name for file in small_training(7)[0].model_files] == ["model.pt"]


@pytest.mark.parametrize("device", ["cuda:99", "meta", "abacus"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(Mistake, match="device"):
        pick_device(device)


def test_some_device_is_always_there() -> None:
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
