"""The table of failure classes in docs/operations.md is the one by which the program acts."""

from __future__ import annotations

import os
from pathlib import Path

from wandb_spool.spool.states import State
from wandb_spool.syncer.failures import POLICIES

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- failures: begin (made from syncer/failures.py; a test keeps it true) -->\n", "<!-- failures: end -->"


def table() -> str:
    lines = ["| class | becomes | counts | pauses | mend |", "|---|---|---|---|---|"]
    for failure, policy in POLICIES.items():
        marks = ("yes" if policy.refusal else "", "yes" if policy.breaker else "")
        lines.append(f"| {failure} | {policy.state} | {marks[0]} | {marks[1]} | {policy.mend} |")
    return "\n".join([*lines, ""])


def test_the_page_shows_every_class_of_failure_as_the_program_treats_it() -> None:
    """With WANDB_SPOOL_REWRITE=1 in the environment the page is brought up to date."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    if os.environ.get("WANDB_SPOOL_REWRITE"):
        PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
        text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table()


def test_the_page_explains_every_state() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not [state for state in State if f"\n| {state} | " not in text]
