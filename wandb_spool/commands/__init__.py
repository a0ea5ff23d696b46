"""One module a command. A module has a function `command`, whose parameters and docstring are the command's.

A module imports what is heavy inside the function: building the command line for `--help` imports all of them. A
command whose module is not there is not offered. To add one: a line in `COMMANDS`, and the module.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

DAILY = "Daily"
MEND = "Mend"
OPERATE = "Operate"
ACROSS = "Across a gap"
PRACTISE = "Practise"

# What follows the command's own options belongs to another program.
_REST: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


@dataclass(frozen=True)
class CommandModule:
    """A command, the part of the help in which it stands, and how its words are read."""

    name: str
    panel: str
    context: dict[str, Any] = field(default_factory=dict)
    help_option: bool = True


COMMANDS: tuple[CommandModule, ...] = (
    CommandModule("init", DAILY),
    CommandModule("run", DAILY, {"allow_interspersed_args": False}),
    CommandModule("status", DAILY),
    CommandModule("ls", DAILY),
    CommandModule("show", DAILY),
    CommandModule("sync", DAILY),
    CommandModule("adopt", DAILY),
    CommandModule("env", DAILY),
    CommandModule("edit", MEND),
    CommandModule("hold", MEND),
    CommandModule("release", MEND),
    CommandModule("discard", MEND),
    CommandModule("recover", MEND),
    CommandModule("replay", MEND),
    CommandModule("verify", OPERATE),
    CommandModule("daemon", OPERATE),
    CommandModule("service", OPERATE),
    CommandModule("doctor", OPERATE),
    CommandModule("export", OPERATE),
    CommandModule("prune", OPERATE),
    CommandModule("pack", ACROSS),
    CommandModule("unpack", ACROSS),
    CommandModule("train", PRACTISE, _REST, help_option=False),
    CommandModule("rehearse", PRACTISE),
    CommandModule("demo", PRACTISE),
)


def offered() -> tuple[CommandModule, ...]:
    """The commands whose modules are there."""
    return tuple(module for module in COMMANDS if importlib.util.find_spec(f"{__name__}.{module.name}") is not None)
