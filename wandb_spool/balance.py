"""`verify --remote`: read the server back and print the balance of every run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wandb_spool.lookup import find_runs
from wandb_spool.output import complain, emit, emit_json, table
from wandb_spool.spool.queue import Spool
from wandb_spool.survey import DAMAGED, Found, Survey
from wandb_spool.syncer.balance import RunBalance, balances
from wandb_spool.syncer.plan import Known
from wandb_spool.syncing import configuration

_HEADER = (
    "run", "logged", "delivered", "waiting", "superseded", "discarded", "lost", "missing", "doubled", "files",
    "artifacts", "balance",
)  # fmt: skip


def verify_remote(spool: Spool, runs: list[str] | None, *, json: bool) -> int:
    """Print the balance; 0 when it holds for every run, 1 when it does not, 75 when no server could be asked."""
    survey = Survey.of(spool)
    chosen = _whole_runs(survey, runs) if runs else list(survey.read())
    found = balances(spool, [Known(item.entry, item.state) for item in chosen], configuration(), os.environ)
    if json:
        emit_json([balance.as_json() for balance in found])
    else:
        print_balances(found)
    for problem in survey.problems:
        complain(problem)
    if survey.damaged:
        return DAMAGED
    failed = [balance for balance in found if not balance.holds]
    if failed and all(balance.unasked for balance in failed):
        return 75
    return 1 if failed else 0


def _whole_runs(survey: Survey, runs: Sequence[str]) -> list[Found]:
    """All fragments of the runs that are meant: a balance is of a run, never of a part of it."""
    ids = {item.entry.run_id for item in find_runs(survey, runs)}
    return [item for item in survey.read() if item.entry.run_id in ids]


def print_balances(found: Sequence[RunBalance]) -> None:
    """A line a run, and below it whatever is wrong."""
    lines = [_line(balance) for balance in found]
    for line in table(_HEADER, lines, right=frozenset(range(1, len(_HEADER) - 1))):
        emit(line)
    for balance in found:
        for wrong in balance.wrong:
            complain(wrong)
        for lost in balance.lost_before_seal:
            complain(f"{balance.target or balance.run_id}: lost before the seal: {lost}")


def _line(balance: RunBalance) -> tuple[str, ...]:
    numbers = (
        balance.delivered, balance.waiting, balance.superseded, balance.discarded, balance.lost, balance.missing,
        balance.doubled, balance.files, balance.artifacts,
    )  # fmt: skip
    logged = str(balance.rows_logged) if balance.logged_known else f"{balance.rows_logged}?"
    verdict = "holds" if balance.holds else "DOES NOT HOLD"
    name = balance.target or f"{balance.project or '?'}/{balance.run_id}"
    return (name, logged, *map(str, numbers), verdict)
