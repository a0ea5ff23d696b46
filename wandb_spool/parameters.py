"""Parameters that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

SpoolOption = Annotated[
    str | None,
    typer.Option("--spool", metavar="DIR", help="The spool; else WANDB_SPOOL_DIR, else the configuration's."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Progress on stderr as one JSON object a line.")]
RunsArgument = Annotated[list[str], typer.Argument(metavar="RUN…", help="Fragments, run ids or paths.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A fragment, a run id or a path.")]
