"""`wandb-spool status`: one look that tells the health of a spool."""

from __future__ import annotations

import typer

from wandb_spool.parameters import JsonOption, SpoolOption


def command(spool: SpoolOption = None, json: JsonOption = False) -> None:
    """The state of the spool: who syncs it, what waits for how long, and what is wrong."""
    from wandb_spool.overview import show

    raise typer.Exit(show(spool, json=json))
