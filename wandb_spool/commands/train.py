"""`wandb-spool train`: the reference pipeline, run like any other training."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wandb_spool.parameters import SpoolOption

_PIPELINE = (sys.executable, "-m", "wandb_spool.runner.reference")


def command(
    context: typer.Context,
    spool: SpoolOption = None,
    hold: Annotated[bool, typer.Option("--hold", help="Don't deliver before `release`.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No lines about the run at the end.")] = False,
) -> int:
    """Train the reference pipeline: `run -- python -m wandb_spool.runner.reference`. All its flags are passed on."""
    if {"--help", "-h"} & set(context.args):
        return _help(context)
    from wandb_spool.run_arguments import RunArguments
    from wandb_spool.running import run

    return run(RunArguments((*_PIPELINE, *context.args), spool, hold=hold, quiet=quiet))


def _help(context: typer.Context) -> int:
    import subprocess

    print("wandb-spool train [--spool DIR] [--hold] [--quiet] [the pipeline's own flags]\n", flush=True)
    return subprocess.run([*_PIPELINE, "--help"]).returncode
