"""Write docs/errors.md from the messages in the code: `python docs/generate_errors.py`. A test keeps it true.

A message is found where an error is made: the class tells the exit code and what it means, the first argument what
happened, `hint` the one next command. What stands in ‹angles› is filled in.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("spool", "syncer", "runner", "wandb_spool")

# Class → exit code and what it means for what was logged.
CLASSES = {
    "UsageError": (2, "Something was asked for that can't be. Nothing was changed, nothing is lost."),
    "SpoolMissingError": (2, "There is no spool where one was looked for. Nothing was changed."),
    "ConfigurationError": (2, "A configuration file says something that can't be understood. Nothing was changed."),
    "SpoolFormatError": (4, "The spool can't be read by this version. Nothing was touched."),
    "DamagedError": (4, "A file of the spool is not what the format says. The runs beside it are untouched."),
    "BundleError": (1, "A bundle is not what its index says. Nothing of it was taken."),
    "StorageError": (1, "The file system refused. What is sealed stays sealed."),
    "TransitionError": (1, "A move that the states don't allow. Nothing was changed."),
    "LostRaceError": (1, "Somebody else was faster. Nothing is wrong: look again."),
}


@dataclass(frozen=True, order=True)
class Message:
    kind: str
    what: str
    hint: str


def main() -> int:
    (ROOT / "docs" / "errors.md").write_text(text(), encoding="utf-8")
    return 0


def text() -> str:
    return "\n".join(lines()) + "\n"


def lines() -> Iterator[str]:
    yield "# Messages"
    yield ""
    yield "Written by `docs/generate_errors.py` from the code. Every message says what happened; its class says whether"
    yield "anything is lost, and the second column the one next thing to do. What stands in ‹angles› is filled in."
    found = sorted(set(messages()))
    for kind, (code, meaning) in CLASSES.items():
        members = [message for message in found if message.kind == kind]
        if members:
            yield from ("", f"## {kind}, exit code {code}", "", meaning, "", "| message | what to do |", "|---|---|")
            yield from (f"| {_cell(message.what)} | {_cell(message.hint)} |" for message in members)
    yield from _errnos()
    yield from _failures()


def _errnos() -> Iterator[str]:
    """The hints of a refusal of the file system stand in one table of the code."""
    import os

    from wandb_spool.spool.errors import _HINTS

    yield from ("", "## What the file system said", "", "| reason | what to do |", "|---|---|")
    for number, hint in _HINTS.items():
        yield f"| {os.strerror(number)} | {_cell(hint)} |"


def _failures() -> Iterator[str]:
    """Why a fragment was not delivered: the classes of failure of the syncer."""
    from wandb_spool.syncer.failures import POLICIES

    details: dict[str, set[str]] = {}
    for kind, what in _deliveries():
        details.setdefault(kind, set()).add(what)
    yield from ("", "## Reasons of an entry", "")
    yield "`wandb-spool ls` and `show` give them as `class: text`. Nothing is lost in any of these states."
    yield from ("", "| class | becomes | what to do | texts |", "|---|---|---|---|")
    for failure, policy in POLICIES.items():
        texts = " · ".join(sorted(details.get(failure.name, ())))
        yield f"| {failure.value} | {policy.state.value} | {_cell(policy.mend)} | {_cell(texts)} |"


def messages() -> Iterator[Message]:
    """Every error that the code makes, with its text."""
    for call in _calls():
        name = _name(call.func)
        if name == "storage_error" and call.args:
            yield Message("StorageError", f"can't {_template(call.args[0])}: ‹reason›: ‹path›", "see below, by reason")
        elif name in CLASSES and call.args:
            hints = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
            paths = [keyword for keyword in call.keywords if keyword.arg == "path"]
            what = _template(call.args[0]) + (": ‹path›" if paths else "")
            yield Message(name, what, _template(hints[0]) if hints else "")


def _deliveries() -> Iterator[tuple[str, str]]:
    for call in _calls():
        if _name(call.func) == "DeliveryError" and len(call.args) >= 2 and isinstance(call.args[0], ast.Attribute):
            yield call.args[0].attr, _template(call.args[1])


def _calls() -> Iterator[ast.Call]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "rehearsal" not in path.parts and not any(part.startswith(".") for part in path.parts):
                tree = ast.parse(path.read_text(encoding="utf-8"))
                yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(function: ast.expr) -> str:
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _template(value: ast.expr) -> str:
    """The text with ‹names› for what is filled in."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(_template(part) for part in value.values)
    if isinstance(value, ast.FormattedValue):
        return f"‹{_short(value.value)}›"
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _template(value.left) + _template(value.right)
    return f"‹{_short(value)}›"


def _short(value: ast.expr) -> str:
    """A word for an expression: the last name in it."""
    if isinstance(value, ast.Name):
        return value.id.strip("_").replace("_", " ")
    if isinstance(value, ast.Attribute):
        return value.attr.strip("_").replace("_", " ")
    if isinstance(value, ast.Call):
        return _short(value.args[0]) if value.args else _short(value.func)
    if isinstance(value, (ast.Subscript, ast.Starred, ast.Await)):
        return _short(value.value)
    names = [node for node in ast.walk(value) if isinstance(node, (ast.Name, ast.Attribute))]
    return _short(names[0]) if names else "…"


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
