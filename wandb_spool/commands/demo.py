"""`wandb-spool demo`: the whole story in two minutes, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to play it; default: a new temporary directory.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the training.")] = 5,
) -> None:
    """Train through an outage, deliver, prove it. Needs no account, no network and no configuration."""
    from wandb_spool.demonstration import demonstrate

    raise typer.Exit(demonstrate(directory, epochs))
