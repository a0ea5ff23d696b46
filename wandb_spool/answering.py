"""The outermost edge of every command: a person gets one line and an exit code, never a stack trace.

Light to import, so that the commands that are typed most need not wait for the command line library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from wandb_spool.output import complain, name_spool
from wandb_spool.spool.errors import FULL_ERRNOS, SpoolError

PROGRAM = "wandb-spool"
INTERRUPTED = 130


def guarded(action: Callable[[], object], words: Sequence[str]) -> int:
    """Do what was asked; returns the exit code."""
    _open_closed_streams()
    try:
        name_spool(_spool_of_its_own(words))
        result = action()
        sys.stdout.flush()  # what can't be written is told here, not by the interpreter at its end
    except SpoolError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return 0  # `wandb-spool ls | head` is no error
    except OSError as error:
        if error.errno not in FULL_ERRNOS or error.filename is not None:
            return _explain(error, words)
        _close_stdout()
        complain(f"the output can't be written: {error.strerror} · nothing of a run was lost by this")
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: a person gets a line, not a stack trace
        return _explain(error, words)
    return result if isinstance(result, int) else 0


def status(words: Sequence[str]) -> int | None:
    """`status` and its two plain options; None for what only the command line library understands."""
    spool, json, rest = None, False, list(words)
    while rest:
        word = rest.pop(0)
        if word == "--json":
            json = True
        elif word == "--spool" and rest and not rest[0].startswith("-"):
            spool = rest.pop(0)
        elif word.startswith("--spool="):
            spool = word.partition("=")[2]
        else:
            return None

    def show() -> int:
        from wandb_spool.overview import show

        return show(spool, json=json)

    return guarded(show, ["status", *words])


def _spool_of_its_own(words: Sequence[str]) -> Path | None:
    """What `--spool` names, if the same command without it would mean another spool."""
    named = [word.partition("=")[2] for word in words if word.startswith("--spool=")]
    named += [after for word, after in pairwise(words) if word == "--spool"]
    if not named or not named[-1]:
        return None
    from wandb_spool.locate import absolute, locate

    root = absolute(named[-1])
    try:
        return None if locate(None, os.environ).root == root else root
    except SpoolError:
        return root  # a configuration that can't be read names none


def _explain(error: Exception, words: Sequence[str]) -> int:
    format_message = getattr(error, "format_message", None)  # the library's own errors; their class moved over time
    if format_message is not None:
        known = " ".join(words[:1]) if words and not words[0].startswith("-") and _is_command(words[0]) else ""
        told = " ".join(format_message().split()).replace("Value error, ", "").rstrip(".")
        if words and words[0].startswith("--spool"):
            told += ": it belongs behind the command, `wandb-spool ls --spool DIR`"
        complain(f"{told} (see `{' '.join(filter(None, (PROGRAM, known, '--help')))}`)")
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
    from wandb_spool.commands import offered

    return any(module.name == word for module in offered())


def _open_closed_streams() -> None:
    """`>&-` in a crontab: then Python has no stream at all there, and the next file would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def _close_stdout() -> None:
    """Whoever reads it is gone, or its disk is full: the interpreter is not to complain of it at its end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
