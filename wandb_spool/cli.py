"""The command line: which function answers, and what a person sees when it can't.

Guarantees: a person's mistake is one line on stderr and exit code 2, never a stack trace; an error of the spool is one
line and its own exit code; anything unexpected is one line that says where its traceback was kept, and exit code 1.
Interrupted is 130, also in a prompt.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from wandb_spool import __version__
from wandb_spool.commands import CommandModule, offered
from wandb_spool.output import complain
from wandb_spool.spool.errors import SpoolError

PROGRAM = "wandb-spool"
INTERRUPTED = 130


def answer(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    from typer.main import get_command

    command = get_command(build(words))
    try:
        result = command.main(list(words), prog_name=PROGRAM, standalone_mode=False)
    except SpoolError as error:
        complain(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # noqa: BLE001 - the outermost edge: a person gets a line, not a stack trace
        return _explain(error, words)
    return result if isinstance(result, int) else 0


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


def _explain(error: Exception, words: Sequence[str]) -> int:
    format_message = getattr(error, "format_message", None)  # the library's own errors; their class moved over time
    if format_message is not None:
        known = " ".join(words[:1]) if words and not words[0].startswith("-") and _is_command(words[0]) else ""
        complain(f"{format_message().rstrip('.')} (see `{' '.join(filter(None, (PROGRAM, known, '--help')))}`)")
        return int(getattr(error, "exit_code", 2))
    if os.environ.get("WANDB_SPOOL_DEBUG"):
        import traceback

        traceback.print_exception(error)
        return 1
    complain(f"{_unexpected(error)} · nothing of a run was lost by this; {_keep_traceback(error)}")
    return 1


def _unexpected(error: Exception) -> str:
    return f"unexpected: {type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _keep_traceback(error: Exception) -> str:
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="wandb-spool-", suffix=".txt", delete=False) as stream:
            stream.write("".join(traceback.format_exception(error)))
    except OSError:
        return "WANDB_SPOOL_DEBUG=1 shows the traceback"
    return f"its traceback is in {stream.name}"


def _is_command(word: str) -> bool:
    return any(module.name == word for module in offered())


def _reader_left() -> int:
    """`wandb-spool ls | head`: no error, and no complaint of the interpreter at its end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
