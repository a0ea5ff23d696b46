"""Which spool is meant: `--spool`, `WANDB_SPOOL_DIR`, the configurations, the user's state directory. In this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.configuration import (
    SITE_CONFIGURATION,
    load_configuration,
    user_configuration_path,
    user_state_spool,
)
from wandb_spool.spool.errors import SpoolMissingError, UsageError
from wandb_spool.spool.queue import Spool

DEFAULT = "the default"
BATCH_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


@dataclass(frozen=True)
class Located:
    """A spool's root, and who named it."""

    root: Path
    named_by: str
    warning: str | None = None


def locate(option: Path | str | None, environ: Mapping[str, str]) -> Located:
    """The spool that is meant, existing or not. Raises ConfigurationError or StorageError."""
    if option is not None:
        return Located(absolute(option), "--spool")
    if environ.get("WANDB_SPOOL_DIR"):
        return Located(absolute(environ["WANDB_SPOOL_DIR"]), "WANDB_SPOOL_DIR")
    for path in (user_configuration_path(environ), SITE_CONFIGURATION):
        configured = load_configuration([path]).spool
        if configured is not None:
            return Located(absolute(configured), str(path))
    root = user_state_spool(environ)
    job = next((name for name in BATCH_JOB_VARIABLES if environ.get(name)), None)
    return Located(absolute(root), DEFAULT, None if job is None else _batch_warning(root))


def absolute(path: Path | str) -> Path:
    """A path that a person named. Raises UsageError for an empty one: it is a variable that is not set."""
    if not str(path):
        raise UsageError("an empty path: a variable that is not set?", hint="name the directory")
    return Path(os.path.abspath(os.path.expanduser(path)))


def open_spool(option: Path | str | None) -> Spool:
    """The spool of a command that needs an existing one. Raises SpoolMissingError (exit 2) and its kin."""
    located = locate(option, os.environ)
    try:
        return Spool.open(located.root)
    except SpoolMissingError as error:
        if located.named_by != DEFAULT:
            raise
        hint = "`wandb-spool init DIR` makes one and remembers it; --spool DIR or WANDB_SPOOL_DIR names one"
        raise SpoolMissingError("no spool is named, and there is none at", path=located.root, hint=hint) from error


def _batch_warning(root: Path) -> str:
    return (
        f"WARNING: no spool is named, this batch job logs to {root} in the home directory, which is often small. "
        "Name one on project or scratch space: `wandb-spool init DIR`, --spool DIR or WANDB_SPOOL_DIR"
    )
