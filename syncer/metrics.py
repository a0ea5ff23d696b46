"""What a daemon did and what waits, as a Prometheus text file for the node exporter's textfile collector.

The file is replaced as a whole after each pass, readable by everybody, and holds numbers, states, classes and addresses
of servers, no names of runs. `delivered` is not counted on disk: listing what was ever delivered would cost more than
the pass. Fails with StorageError when the file can't be written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb_spool.spool import durable
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .service import PassResult

PREFIX = "wandb_spool"
COUNTED = tuple(state for state in State if state not in (State.DELIVERED, State.DISCARDED, State.VOID))


@dataclass
class Totals:
    """What this process and its helpers did since it started."""

    passes: int = 0
    failed_passes: int = 0
    rows: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By state and class of failure (empty for none)."""

    def add(self, result: PassResult) -> None:
        self.passes += 1
        self.failed_passes += result.broken is not None
        for outcome in result.outcomes:
            self._count(outcome.state.value, outcome.failure and outcome.failure.value, outcome.rows)

    def add_helpers(self, outcome: Mapping[str, Any]) -> None:
        """One outcome of a helper (`syncer.lanes`), as `sync --json` prints it."""
        self._count(str(outcome["state"]), outcome["failure"], outcome["rows"])

    def _count(self, state: str, failure: str | None, rows: int | None) -> None:
        self.outcomes[state, failure or ""] += 1
        self.rows += (rows or 0) if state == State.DELIVERED.value else 0


def write_metrics(path: Path, spool: Spool, totals: Totals, result: PassResult, now_s: float) -> None:
    """Replace the file."""
    counts = {state.value: sum(1 for _ in spool.places(state)) for state in COUNTED}
    durable.write(path, metrics_text(counts, totals, result, now_s).encode(), mode=0o644)


def metrics_text(counts: Mapping[str, int], totals: Totals, result: PassResult, now_s: float) -> str:
    """The text of the file. Pure."""
    return "\n".join([*_lines(counts, totals, result, now_s), ""])


def _lines(counts: Mapping[str, int], totals: Totals, result: PassResult, now_s: float) -> Iterator[str]:
    yield from _head("entries", "gauge", "Fragments in each state of the queue.")
    yield from (sample("entries", number, state=state) for state, number in counts.items())
    yield from _head("outcomes_total", "counter", "What became of fragments since the daemon started.")
    for (state, failure), number in sorted(totals.outcomes.items()):
        yield sample("outcomes_total", number, state=state, failure=failure)
    yield from _head("rows_delivered_total", "counter", "Rows read back since the daemon started.")
    yield sample("rows_delivered_total", totals.rows)
    yield from _head("passes_total", "counter", "Passes since the daemon started.")
    yield sample("passes_total", totals.passes)
    yield from _head("failed_passes_total", "counter", "Passes that could not use the spool.")
    yield sample("failed_passes_total", totals.failed_passes)
    yield from _head("last_pass_timestamp_seconds", "gauge", "When the last pass ended.")
    yield sample("last_pass_timestamp_seconds", round(now_s, 3))
    if result.broken is None:
        yield from _head("problems", "gauge", "What the last pass found wrong with the spool.")
        yield sample("problems", len(result.problems))
        yield from _head("destination_up", "gauge", "Whether a server could be used in the last pass.")
        for base_url in sorted(result.answered | result.outages.keys()):
            yield sample("destination_up", int(base_url not in result.outages), destination=base_url)


def sample(name: str, value: float, **labels: str) -> str:
    inner = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
    return f"{PREFIX}_{name}{{{inner}}} {value!r}" if inner else f"{PREFIX}_{name} {value!r}"


def escaped(text: str) -> str:
    """A label's value: backslash, quote and end of line are escaped, and nothing else."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _head(name: str, kind: str, what: str) -> tuple[str, str]:
    return f"# HELP {PREFIX}_{name} {what}", f"# TYPE {PREFIX}_{name} {kind}"
