"""`run`: find the spool and hand over to the launcher. A configuration that can't be read doesn't stop a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from wandb_spool.locate import Located, absolute, locate
from wandb_spool.run_arguments import RunArguments
from wandb_spool.runner.cache_place import cache_variables
from wandb_spool.runner.launch import NO_SPOOL, LaunchRequest
from wandb_spool.runner.launch import run as run_launch
from wandb_spool.spool.configuration import user_state_spool
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.names import wrong_entity, wrong_project, wrong_run_id


def run(arguments: RunArguments) -> int:
    """Run the command; the exit code is the command's, or the launcher's own 125 to 127."""
    try:
        located = locate(arguments.spool, os.environ)
    except SpoolError as error:
        if arguments.require_spool:
            print(f"wandb-spool: {error}; the command was not started, because of --require-spool", file=sys.stderr)
            return NO_SPOOL
        located = Located(user_state_spool(os.environ), "the default", f"WARNING: {error}")
    for line in filter(None, (located.warning, name_warning(os.environ))):
        print(f"wandb-spool: {line}", file=sys.stderr)
    if arguments.stage == "":
        print("wandb-spool: WARNING: --stage names no directory; writing to the spool directly", file=sys.stderr)
    return run_launch(request_of(arguments, located), {**os.environ, **_told(cache_variables(os.environ))})


def _told(variables: dict[str, str]) -> dict[str, str]:
    for key, value in variables.items():
        print(f"wandb-spool: the home can't be written: {key}={value} for this launch", file=sys.stderr)
    return variables


def name_warning(environ: Mapping[str, str]) -> str | None:
    """What W&B would refuse of the names in the environment: said before hours of training, not after."""
    for check, variable in (
        (wrong_entity, "WANDB_ENTITY"),
        (wrong_project, "WANDB_PROJECT"),
        (wrong_run_id, "WANDB_RUN_ID"),
    ):
        wrong = check(environ[variable]) if environ.get(variable) else None
        if wrong is not None:
            return f"WARNING: W&B will refuse {variable}: {wrong}"
    return None


def request_of(arguments: RunArguments, located: Located) -> LaunchRequest:
    return LaunchRequest(
        command=arguments.command,
        spool=located.root,
        require_spool=arguments.require_spool,
        hold=arguments.hold,
        resume_key=arguments.resume_key,
        name=arguments.name,
        quiet=arguments.quiet,
        stage=absolute(arguments.stage) if arguments.stage else None,
    )
