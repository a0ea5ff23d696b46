"""The arguments of `run`, read by hand: a training does not wait for a command line library to be imported.

Understands exactly what `commands/run.py` declares; anything else (`--help`, a mistake) gives None, and the full
command line answers. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FLAGS = {"--require-spool": "require_spool", "--hold": "hold", "--quiet": "quiet", "-q": "quiet"}
VALUES = {"--spool": "spool", "--stage": "stage", "--resume-key": "resume_key", "--name": "name"}


@dataclass
class RunArguments:
    """What stood between `run` and the command."""

    command: tuple[str, ...] = ()
    spool: str | None = None
    require_spool: bool = False
    hold: bool = False
    quiet: bool = False
    resume_key: str | None = None
    name: str | None = None
    stage: str | None = None


def parse(words: Sequence[str]) -> RunArguments | None:
    """The arguments, or None for what only the full command line can answer."""
    found = RunArguments()
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, given, value = word.partition("=")
        if word in FLAGS:
            setattr(found, FLAGS[word], True)
        elif name in VALUES and name.startswith("--") and (given or rest):
            setattr(found, VALUES[name], value if given else rest.pop(0))
        else:
            return None
    found.command = tuple(rest)
    return found if rest and "" not in (found.spool, found.resume_key, found.name) else None
