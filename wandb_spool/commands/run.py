"""`wandb-spool run`: declared here for the help, for completion and for mistakes; `run_arguments` answers the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from wandb_spool.parameters import SpoolOption


def command(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="The training command, unchanged.")],
    spool: SpoolOption = None,
    require_spool: Annotated[
        bool, typer.Option("--require-spool", help="Don't run CMD if the spool can't be used (exit 125).")
    ] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Don't deliver before `release`.")] = False,
    resume_key: Annotated[
        str | None,
        typer.Option("--resume-key", metavar="NAME", help="Launches with the same NAME continue each other's runs."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The runs' display name.")] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", metavar="DIR", help="Write to this local directory first ($TMPDIR), and carry it into the spool."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No lines about the runs at the end.")] = False,
) -> int:
    """Run a training command offline into the spool.

    Its exit code is passed on, death by signal n as 128+n; 125 to 127 are failures to start it.
    """
    from wandb_spool.run_arguments import RunArguments
    from wandb_spool.running import run

    return run(RunArguments(tuple(command), spool, require_spool, hold, quiet, resume_key, name, stage))
