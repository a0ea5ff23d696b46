"""The whole script as users and launchers start it: `python -m wandb_spool.runner.reference`."""

from __future__ import annotations

import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from wandb_spool.runner.reference import main
from wandb_spool.runner.reference.datasets import load
from wandb_spool.runner.reference.hyperparameters import BUILT_IN
from wandb_spool.runner.reference.network import ConvNet

from .conftest import COMMAND, Trained, clean_environment, log_rows, run_script
from .staged import stage_idx

BATCH, TRAIN_EXAMPLES = 128, 4000
SMALL = ("--epochs", "1", "--kernels", "2,2", "--no-onnx")


def lines_of_a_mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """What `main` says on standard error when it exits with 2."""
    assert main(argv) == 2
    assert not Path("wandb").exists(), "a mistake must leave no run behind"
    return capsys.readouterr().err.splitlines()


def test_two_epochs_on_the_digits_reach_nine_in_ten(trained: Trained) -> None:
    assert trained.done.returncode == 0, trained.done.stderr
    accuracy = trained.rows[-1].values["test_accuracy"]
    assert isinstance(accuracy, float) and accuracy > 0.9


def test_rows_lie_on_the_number_of_examples_seen(trained: Trained) -> None:
    per_epoch = -(-TRAIN_EXAMPLES // BATCH)
    after = [
        epoch * TRAIN_EXAMPLES + min(batch * BATCH, TRAIN_EXAMPLES)
        for epoch in (0, 1)
        for batch in range(1, per_epoch + 1)
    ]
    every_25th = after[24::25]
    with_loss = [row.step for row in trained.rows if "loss" in row.values]
    with_epoch_loss = [row.step for row in trained.rows if "epoch_loss" in row.values]
    assert with_loss == every_25th
    assert with_epoch_loss == [4000, 8000]
    assert [row.step for row in trained.rows] == sorted({0, *with_loss, *with_epoch_loss})  # 0: watch, before any loss


def test_the_epoch_is_in_every_row_of_a_loss(trained: Trained) -> None:
    epochs = {
        row.step: row.values["epoch"] for row in trained.rows if "loss" in row.values or "epoch_loss" in row.values
    }
    assert epochs == {3200: 1, 4000: 1, 6304: 2, 8000: 2}


def test_the_step_that_was_logged_in_several_calls_is_one_row(trained: Trained) -> None:
    last = [row.values for row in trained.rows if row.step == 2 * TRAIN_EXAMPLES]
    assert len(last) == 1
    assert {"epoch_loss", "test_accuracy", "predictions.path", "confusion_matrix_table.path"} <= last[0].keys()


def test_watch_logged_gradients_and_parameters_of_every_layer(trained: Trained) -> None:
    keys = set(trained.rows[0].values)
    for layer in ("blocks.0.0", "blocks.1.0", "linear"):
        for kind in ("gradients", "parameters"):
            assert any(key.startswith(f"{kind}/{layer}.weight") for key in keys), f"{kind} of {layer}"


def test_the_table_of_predictions_holds_images_of_every_digit(trained: Trained) -> None:
    path = trained.rows[-1].values["predictions.path"]
    table = json.loads((trained.run_dir / "files" / str(path)).read_text())
    assert table["columns"] == ["image", "predicted", "actual"]
    assert {row[2] for row in table["data"]} == set("0123456789")
    images = [content for content in trained.staged if content.startswith(b"\x89PNG")]
    assert len({*images}) == len(table["data"]) == 32


def test_a_line_is_printed_for_every_logged_loss_and_no_bar_is_drawn_into_a_pipe(trained: Trained) -> None:
    printed = trained.done.stdout
    assert printed.count("Loss after") == sum("loss" in row.values for row in trained.rows)
    assert "Accuracy on the 1000 test images: " in printed
    assert "epochs:" not in printed + trained.done.stderr
    assert "\r" not in printed


def test_model_onnx_alone_is_the_trained_model(trained: Trained, tmp_path: Path) -> None:
    models = trained.directory / "models"
    assert sorted(file.name for file in models.iterdir()) == ["model.onnx", "model.pt"]
    alone = shutil.copy(models / "model.onnx", tmp_path)
    onnx.checker.check_model(onnx.load(alone), full_check=True)
    network = ConvNet((1, 28, 28), (16, 32), 10)
    network.load_state_dict(torch.load(models / "model.pt", weights_only=True))
    digits = load("digits", tmp_path).test
    images = torch.stack([digits[index][0] for index in range(0, 1000, 143)])  # not the batch size of the export
    (scores,) = ReferenceEvaluator(alone).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(np.asarray(scores), network(images).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_the_log_holds_the_config_that_was_trained_the_accuracy_and_a_clean_exit(trained: Trained) -> None:
    log = trained.log
    assert {key: value for key, value in log.config.items() if key != "_wandb"} == {**BUILT_IN, "epochs": 2}
    assert log.summary["test_accuracy"] == trained.rows[-1].values["test_accuracy"]
    assert (log.display_name, log.project, log.exit_code) == ("two epochs", "wandb-spool-reference", 0)


def test_the_mean_loss_is_charted_over_the_epoch(trained: Trained) -> None:
    assert {metric.name: metric.step_metric for metric in trained.log.metrics}["epoch_loss"] == "epoch"


def test_the_log_names_the_saved_model_the_model_artifact_and_the_table(trained: Trained) -> None:
    assert "model.onnx" in [file.path for file in trained.log.files]
    artifacts = {(artifact.type, artifact.name.split("-")[0], artifact.entries) for artifact in trained.log.artifacts}
    assert ("model", "digits", 2) in artifacts
    assert len([kind for kind, *_ in artifacts if kind == "run_table"]) == 2


def test_the_model_is_saved_with_the_run_and_staged_as_an_artifact(trained: Trained) -> None:
    model = (trained.directory / "models" / "model.onnx").read_bytes()
    assert (trained.run_dir / "files" / "model.onnx").read_bytes() == model
    assert model in trained.staged
    assert (trained.directory / "models" / "model.pt").read_bytes() in trained.staged


def test_on_a_terminal_a_bar_over_the_epochs_is_drawn(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # tqdm hides in a terminal of no size
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([*COMMAND, *SMALL], env=clean_environment(tmp_path), stdout=out, stderr=theirs)
    os.close(theirs)
    drawn = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert process.wait() == 0
    assert b"epochs: 100%" in drawn


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says EIO when the last writer has closed a terminal
        return b""


def test_staged_mnist_is_trained_through_torchvision(tmp_path: Path) -> None:
    stage_idx(tmp_path / "data", "MNIST", train=250, test=50)
    assert main(["--dataset", "mnist", *SMALL]) == 0
    (run_dir,) = tmp_path.glob("wandb/offline-run-*")
    assert [row.step for row in log_rows(run_dir) if "test_accuracy" in row.values] == [250 / 5]


def test_a_sweeps_choice_beats_a_flag_and_its_bad_value_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text("batch_size: {value: 2000}\n")
    good = run_script(tmp_path, *SMALL, "--batch-size", "5", environment={"WANDB_SWEEP_PARAM_PATH": "sweep.yaml"})
    assert good.done.returncode == 0, good.done.stderr
    assert "Loss after" not in good.done.stdout  # 2 batches of 2000, where 800 of 5 would have had lines
    (tmp_path / "sweep.yaml").write_text("learning_rate: {value: -1}\n")
    bad = run_script(tmp_path, environment={"WANDB_SWEEP_PARAM_PATH": "sweep.yaml"})
    assert bad.done.returncode == 2
    assert "wandb-spool train: learning_rate must be a number above 0, not -1" in bad.done.stderr.splitlines()
    assert "Traceback" not in bad.done.stderr


def test_a_flag_that_contradicts_config_defaults_works_also_where_wandb_is_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("config-defaults.yaml").write_text("epochs: {value: 3}\nbatch_size: {value: 2000}\n")
    assert main([*SMALL]) == 0
    assert "Epoch 1 of 1" in capsys.readouterr().out


def test_missing_data_exits_2_with_one_line_and_leaves_no_run_behind(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of_a_mistake(capsys, "--dataset", "MNIST", "--data-dir", "nowhere")
    assert line.startswith("wandb-spool train: MNIST can't be read from ")
    assert line.endswith("/nowhere --download --stage-only")


@pytest.mark.parametrize(
    "argv",
    [
        ("--epochs", "0"),
        ("--epochs", "many"),
        ("--kernels", "a"),
        ("--dataset", "ImageNet"),
        ("--learning-rate", "-1"),
        ("--batch-size", "0"),
        ("--seed", "-1"),
        ("--device", "abacus"),
        ("--config", "absent.yaml"),
        ("--out-dir", "/dev/null/models"),
        ("--unheard-of",),
    ],
)
def test_a_bad_flag_exits_2_with_one_line(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    (line,) = lines_of_a_mistake(capsys, *argv)
    assert line.startswith("wandb-spool train: ")


@pytest.mark.parametrize(
    ("package", "flags"), [("torch", []), ("onnxscript", []), ("torchvision", ["--dataset", "MNIST"])]
)
def test_a_missing_package_exits_2_with_the_line_that_installs_it(
    tmp_path: Path, package: str, flags: list[str]
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from wandb_spool.runner.reference import main\n"
        f"sys.exit(main({flags!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"wandb-spool train: not installed here: {package}; install them: pip install 'wandb-spool[train]'\n"
    )


def test_staging_alone_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage_idx(tmp_path / "data", "FashionMNIST", train=10, test=10)
    assert main(["--dataset", "FashionMNIST", "--download", "--stage-only"]) == 0
    assert capsys.readouterr().out == "FashionMNIST is staged\n"
    assert not Path("wandb").exists()


def test_importing_the_package_imports_neither_torch_nor_wandb() -> None:
    program = "import sys, wandb_spool.runner.reference; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "wandb"} & set(done.stdout.split())
