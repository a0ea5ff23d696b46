"""`wandb-spool init`: make a spool and remember it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

PLACES = ("SCRATCH", "WORK", "PROJECT", "PSCRATCH", "DATA")


def command(
    directory: Annotated[str | None, typer.Argument(metavar="DIR", help="A new or empty directory.")] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="GROUP", help="Share it with a group (setgid, 2770).")
    ] = None,
    remember: Annotated[bool, typer.Option("--remember/--no-remember", help="Name it in your configuration.")] = True,
) -> None:
    """Make a spool, remember it, and print the lines for a batch script."""
    from wandb_spool.locate import absolute
    from wandb_spool.output import emit
    from wandb_spool.spool.configuration import remember_spool, user_configuration_path
    from wandb_spool.spool.errors import SpoolError, UsageError
    from wandb_spool.spool.queue import Spool

    if directory is None:
        raise UsageError("name a directory for the spool", hint=_suggestion(os.environ))
    spool = Spool.create(absolute(directory), group=group)
    emit(f"spool {spool.root}")
    for line in advice(spool.root, os.environ):
        emit(line)
    if remember:
        path = user_configuration_path(os.environ)
        try:
            remember_spool(path, spool.root)
            emit(f"remembered in {path}")
        except (SpoolError, OSError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            why = getattr(error, "what", why)
            emit(
                f"NOT remembered in {path} ({why}). Name it in every shell and job: export WANDB_SPOOL_DIR={spool.root}"
            )
    emit()
    for line in batch_script(spool.root):
        emit(line)


def _suggestion(environ: Mapping[str, str]) -> str:
    found = suggestions(environ)
    if not found:
        return "one that the compute nodes and the node with a network both see: `wandb-spool init DIR`"
    return "for example " + " or ".join(f"`wandb-spool init {path}`" for path in found)


def suggestions(environ: Mapping[str, str]) -> list[Path]:
    """Places on scratch or project space that this account can write to."""
    roots = [Path(environ[name]) for name in PLACES if environ.get(name)]
    return [root / "wandb-spool" for root in roots if root.is_dir() and os.access(root, os.W_OK)]


def advice(root: Path, environ: Mapping[str, str]) -> list[str]:
    """What is worth knowing about the place."""
    from wandb_spool.spool.configuration import user_configuration_path

    home = environ.get("HOME")
    better = suggestions(environ)
    if home and root.is_relative_to(home) and better and not any(path.parent in root.parents for path in better):
        return [f"it lies in the home directory, whose quota is often small; scratch or project space: {better[0]}"]
    for name in ("SCRATCH", "PSCRATCH"):
        if environ.get(name) and root.is_relative_to(environ[name]):
            path = user_configuration_path(environ)
            return [
                f"${name} is often purged: with `purge_days = 30`, or what your site says, in {path}"
                " `wandb-spool status` warns you at half of it"
            ]
    if root.is_relative_to("/tmp") or (environ.get("TMPDIR") and root.is_relative_to(environ["TMPDIR"])):
        return ["it lies in a temporary directory: other nodes don't see it, and it is cleaned"]
    return []


def batch_script(root: Path) -> list[str]:
    return [
        "In a Slurm batch script, on a node without any network:",
        "",
        "    #!/bin/bash",
        "    #SBATCH --job-name=train --time=01:00:00 --requeue",
        f"    export WANDB_SPOOL_DIR={root}",
        "    srun wandb-spool run -- python train.py",
        "",
        "Then, where there is a network:",
        "",
        "    wandb-spool status",
        "    wandb-spool sync",
    ]
