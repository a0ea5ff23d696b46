"""The command line: which function answers, and what a person sees when it can't.

Guarantees: a person's mistake is one line on stderr and exit code 2, never a stack trace; an error of the spool is one
line and its own exit code; anything unexpected is one line that says where its traceback was kept, and exit code 1.
Interrupted is 130, also in a prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated

import typer

from wandb_spool import __version__
from wandb_spool.answering import INTERRUPTED, PROGRAM, guarded
from wandb_spool.commands import CommandModule, offered


def answer(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    from typer.main import get_command

    words = ["--version"] if list(words) in (["version"], ["-V"]) else words  # as people type it elsewhere

    def run() -> object:
        try:
            return get_command(build(words)).main(list(words), prog_name=PROGRAM, standalone_mode=False)
        except typer.Abort:
            return INTERRUPTED

    return guarded(run, words)


def build(words: Sequence[str]) -> typer.Typer:
    """The application; with only the command that the words name, if they begin with one."""
    commands = offered()
    named = [module for module in commands if words[:1] == [module.name]]
    app = typer.Typer(
        name=PROGRAM,
        help="Log training runs to a spool on disk, without a network; deliver them to W&B later, and prove it.",
        epilog="RUN is a fragment, a run id or a path. `wandb-spool COMMAND --help` tells more.",
        add_completion=not named,
        no_args_is_help=False,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_options)
    for module in named or commands:
        _register(app, module)
    return app


def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"{PROGRAM} {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _register(app: typer.Typer, module: CommandModule) -> None:
    function = importlib.import_module(f"wandb_spool.commands.{module.name}").command
    app.command(
        module.name,
        rich_help_panel=module.panel,
        context_settings=module.context,
        add_help_option=module.help_option,
    )(function)
