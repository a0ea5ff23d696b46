"""`run`: find the spool and hand over to the launcher. A configuration that can't be read doesn't stop a training."""

from __future__ import annotations

import os
import sys

from wandb_spool.locate import Located, locate
from wandb_spool.run_arguments import RunArguments
from wandb_spool.runner.launch import NO_SPOOL, LaunchRequest
from wandb_spool.runner.launch import run as run_launch
from wandb_spool.spool.configuration import user_state_spool
from wandb_spool.spool.errors import SpoolError


def run(arguments: RunArguments) -> int:
    """Run the command; the exit code is the command's, or the launcher's own 125 to 127."""
    try:
        located = locate(arguments.spool, os.environ)
    except SpoolError as error:
        if arguments.require_spool:
            print(f"wandb-spool: {error}; the command was not started, because of --require-spool", file=sys.stderr)
            return NO_SPOOL
        located = Located(user_state_spool(os.environ), "the default", f"WARNING: {error}")
    if located.warning:
        print(f"wandb-spool: {located.warning}", file=sys.stderr)
    return run_launch(request_of(arguments, located), os.environ)


def request_of(arguments: RunArguments, located: Located) -> LaunchRequest:
    return LaunchRequest(
        command=arguments.command,
        spool=located.root,
        require_spool=arguments.require_spool,
        hold=arguments.hold,
        resume_key=arguments.resume_key,
        name=arguments.name,
        quiet=arguments.quiet,
    )
