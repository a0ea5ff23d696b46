"""How commands speak: results on stdout, everything else on stderr, tables that a person and `grep` can read."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_COMMAND = re.compile(r"`wandb-spool (?!init|rehearse|demo|train)(\w+)((?: [^`]*)?)`")
_option = ""


def name_spool(root: Path | None) -> None:
    """Let every command that is told from now on name this spool: without that it would mean another one."""
    global _option
    _option = "" if root is None else f" --spool {shlex.quote(str(root))}"


def complain(line: str) -> None:
    """One line on stderr."""
    print(f"wandb-spool: {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """Without control characters: names come from files that anybody may have written. Commands name their spool."""
    if _option:
        text = _COMMAND.sub(lambda told: told[0] if "--spool" in told[2] else _with_option(told[1], told[2]), text)
    return "".join(character if character.isprintable() else "�" for character in text)


def _with_option(command: str, rest: str) -> str:
    words, dashes, program = rest.partition(" -- ")
    return f"`wandb-spool {command}{words}{_option}{dashes}{program}`"


def emit_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def emit(line: str = "") -> None:
    """One line on stdout, in whatever encoding the terminal has."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(line).encode(encoding, "replace").decode(encoding))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Aligned columns; `right` are those of numbers. On a terminal the last column is cut at its edge."""
    widths = [max(len(line[index]) for line in (header, *rows)) for index in range(len(header))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = []
    for line in (header, *rows):
        cells = [
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        joined = "  ".join(cells).rstrip()
        lines.append(joined if room is None or len(joined) <= room else joined[: room - 1] + "…")
    return lines


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a person; without a terminal there is nobody to ask. Raises UsageError then."""
    from wandb_spool.spool.errors import UsageError

    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at, nothing was done", hint="say --yes if you mean it")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
