"""The page on what can go wrong names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "what-can-go-wrong.md"
LINK = re.compile(r"\[`(\w+)`\]\((\S+?\.py)\)")
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| what goes")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_line_links_to_a_test_that_exists(row: str) -> None:
    found = LINK.findall(row)
    assert found, row
    for name, path in found:
        source = PAGE.parent / path
        assert source.is_file(), path
        assert re.search(rf"^def test_{name}\(", source.read_text(), re.MULTILINE), f"{path}::test_{name}"
