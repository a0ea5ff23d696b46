"""The pages on what can go wrong name only tests that exist."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "what-can-go-wrong.md", ROOT / "README.md")
LINK = re.compile(r"\[`(\w+)`\]\((\S+?\.py)\)")


def rows() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for table in page.read_text().split("| what goes wrong |")[1:]:
            lines = itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()[2:])
            yield from ((page, line) for line in lines)


ROWS = list(rows())


@pytest.mark.parametrize(("page", "row"), ROWS, ids=[f"{page.name}: {row.split('|')[1].strip()}" for page, row in ROWS])
def test_every_line_links_to_a_test_that_exists(page: Path, row: str) -> None:
    found = LINK.findall(row)
    assert found, row
    for name, path in found:
        source = page.parent / path
        assert source.is_file(), path
        assert re.search(rf"^def test_{name}\(", source.read_text(), re.MULTILINE), f"{path}::test_{name}"


def test_every_table_of_what_can_go_wrong_is_read() -> None:
    assert {page for page, _ in ROWS} == set(PAGES) and len(ROWS) > 60
