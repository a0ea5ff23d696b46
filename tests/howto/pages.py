"""The pages of docs/howto as scripts: files that they show, and the blocks that they mark `bash run`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HOWTO = Path(__file__).parents[2] / "docs" / "howto"

_BLOCK = re.compile(r"^```(\w+) (run|file=(\S+))\n(.*?)^```$", re.M | re.S)
_NOTE = re.compile(r"^<!-- (needs|expect): (.*?) -->$", re.M)


@dataclass(frozen=True)
class Page:
    name: str
    files: dict[str, str]
    script: str
    modules: tuple[str, ...]
    slurm: bool
    expected: dict[str, int]


def read_page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    files = {name: body for _, _, name, body in _BLOCK.findall(text) if name}
    script = "\n".join(body for _, _, name, body in _BLOCK.findall(text) if not name)
    notes = _NOTE.findall(text)
    needs = [words.split() for kind, words in notes if kind == "needs"]
    expected = [pair.partition("=") for kind, words in notes if kind == "expect" for pair in words.split()]
    return Page(
        name=path.stem,
        files=files,
        script=script,
        modules=tuple(module for words in needs if words[0] == "module" for module in words[1:]),
        slurm=["slurm"] in needs,
        expected={name: int(number) for name, _, number in expected},
    )


def pages() -> list[Page]:
    return [read_page(path) for path in sorted(HOWTO.glob("*.md")) if path.name != "README.md"]
