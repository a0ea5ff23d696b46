"""`wandb-spool rehearse`: a stand-in W&B service on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 0,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Where it keeps what it is sent.")] = Path(
        "wandb-rehearsal"
    ),
    faults: Annotated[
        Path | None, typer.Option("--faults", metavar="FILE", help="What goes wrong, and when (JSON).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Random faults, the same for the same N.")
    ] = None,
) -> None:
    """Serve a stand-in W&B service on loopback, until Ctrl-C. Prints the two lines to export."""
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.syncer.rehearsal import serve

    try:
        code = serve(port, data, faults, seed=seed)
    except ValueError as error:
        raise UsageError(f"the faults can't be understood ({error})", path=faults) from error
    except OSError as error:
        raise UsageError(f"the rehearsal server can't start ({error.strerror or error})", path=data) from error
    raise typer.Exit(code)
