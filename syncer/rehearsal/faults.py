"""Outages as data: which request goes wrong, and how.

A fault is `(endpoint, which requests, kind)`. A faults file is a JSON list of them, or an object
`{"seed": 7, "faults": [...]}`:

    [
      {"endpoint": "graphql:UpsertBucket", "nth": 1, "kind": "status", "status": 500},
      {"endpoint": "file_stream", "nth": 2, "times": 3, "kind": "status", "status": 429, "retry_after_s": 1},
      {"endpoint": "upload", "every": 5, "kind": "reset_after"},
      {"endpoint": "any", "probability": 0.02, "times": 10, "kind": "refuse"},
      {"endpoint": "file_stream", "nth": 4, "kind": "down", "seconds": 2}
    ]

* `endpoint`: `graphql`, `graphql:OPERATION`, `file_stream`, `upload` (a file of a run), `artifact_upload` (a file,
  part or manifest of an artifact), `download`, or `any`. Requests are counted per fault, from 1.
* Which of them: `nth` (that one, and with `times` the ones behind it), `every` (each n-th), `probability` (drawn from
  the seed, so the same seed draws the same), or none of these (all). `times` bounds how often the fault strikes;
  `nth` alone strikes once.
* `kind`: `refuse` (the connection is closed at once) · `status` (with `status`, optional `retry_after_s`) · `hang`
  (`seconds`; without it, for ever) · `reset_before` (the request is read and dropped) · `reset_after` (it is stored,
  its answer is lost) · `truncate` (half an answer) · `slow` (answered after `seconds`) · `html` (a captive portal:
  status 200, HTML) · `duplicate` (stored twice, as by a repeating proxy) · `down` (nobody listens for `seconds`) ·
  `restart` (the same, and the server forgets all that is not on its disk).

The first fault in the list that strikes a request decides. Matching is pure and does not depend on the order in which
concurrent requests arrive at different endpoints. A file that is wrong is refused with a ValueError that says where.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

ENDPOINTS = ("graphql", "file_stream", "upload", "artifact_upload", "download", "any")


class FaultKind(Enum):
    """What goes wrong."""

    REFUSE = "refuse"
    STATUS = "status"
    HANG = "hang"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    TRUNCATE = "truncate"
    SLOW = "slow"
    HTML = "html"
    DUPLICATE = "duplicate"
    DOWN = "down"
    RESTART = "restart"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong; see the module's text for the fields."""

    kind: FaultKind
    endpoint: str = "any"
    nth: int | None = None
    every: int | None = None
    probability: float | None = None
    times: int | None = None
    status: int = 500
    retry_after_s: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.endpoint, str) or self.endpoint.partition(":")[0] not in ENDPOINTS:
            raise ValueError(f"unknown endpoint {self.endpoint!r}; known: {', '.join(ENDPOINTS)}")
        if sum(which is not None for which in (self.nth, self.every, self.probability)) > 1:
            raise ValueError("a fault takes one of nth, every and probability")
        for name in ("nth", "every", "times"):
            _require(name, getattr(self, name), int, 1)
        for name in ("probability", "retry_after_s", "seconds"):
            _require(name, getattr(self, name), (int, float), 0)
        _require("status", self.status, int, 0)
        if self.probability is not None and self.probability > 1:
            raise ValueError(f"a probability is at most 1, not {self.probability}")
        if not 100 <= self.status <= 599:
            raise ValueError(f"not an HTTP status: {self.status}")

    def concerns(self, endpoint: str) -> bool:
        """Whether a request to `endpoint` (as `graphql:OPERATION`, `file_stream`, …) counts for this fault."""
        return self.endpoint in ("any", endpoint, endpoint.partition(":")[0])

    def strikes(self, count: int, struck: int, draw: float) -> bool:
        """Whether the `count`-th request is hit, when `struck` were already; `draw` is random in [0, 1)."""
        if self.nth is not None:
            return self.nth <= count < self.nth + (self.times or 1)
        if self.times is not None and struck >= self.times:
            return False
        if self.every is not None:
            return count % self.every == 0
        return self.probability is None or draw < self.probability

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fault:
        unknown = data.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown field of a fault: {', '.join(sorted(unknown))}")
        kinds = [kind.value for kind in FaultKind]
        if data.get("kind") not in kinds:
            raise ValueError(f"a fault needs a kind, one of {', '.join(kinds)}; not {data.get('kind')!r}")
        return cls(**{**data, "kind": FaultKind(data["kind"])})

    def to_json(self) -> dict[str, Any]:
        values = {**dataclasses.asdict(self), "kind": self.kind.value}
        if self.kind is not FaultKind.STATUS:
            del values["status"]
        return {name: value for name, value in values.items() if value is not None}


def _require(name: str, value: object, kind: type | tuple[type, ...], least: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{name} is a number, not {value!r}")
    assert isinstance(value, (int, float))
    if not least <= value < float("inf"):
        raise ValueError(f"{name} is at least {least:g}, not {value!r}")


@dataclass(frozen=True)
class Strike:
    """A fault that hit: what, where, and at the how-manieth request of that fault."""

    fault: Fault
    endpoint: str
    count: int


class FaultPlan:
    """A list of faults and the counters that tell which request each one strikes."""

    def __init__(self, faults: Sequence[Fault] = (), *, seed: int = 0) -> None:
        self.faults, self.seed = tuple(faults), seed
        self.struck: list[Strike] = []
        self._counts = [0] * len(self.faults)
        self._hits = [0] * len(self.faults)

    def next_fault(self, endpoint: str) -> Fault | None:
        """Count a request to `endpoint`; the fault that strikes it, if any."""
        chosen = None
        for index, fault in enumerate(self.faults):
            if not fault.concerns(endpoint):
                continue
            self._counts[index] += 1
            if chosen is None and self._hit(index, fault):
                chosen = fault
                self._hits[index] += 1
                self.struck.append(Strike(fault, endpoint, self._counts[index]))
        return chosen

    def _hit(self, index: int, fault: Fault) -> bool:
        count = self._counts[index]
        draw = random.Random(f"{self.seed}:{index}:{count}").random()
        return fault.strikes(count, self._hits[index], draw)


def parse_faults(text: str) -> FaultPlan:
    """A faults file's content as a plan."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the faults are not JSON: {error}") from None
    seed = data.get("seed", 0) if isinstance(data, dict) else 0
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"the seed is a whole number, not {seed!r}")
    faults = data.get("faults") if isinstance(data, dict) else data
    if not isinstance(faults, list) or not all(isinstance(fault, dict) for fault in faults):
        raise ValueError("the faults must be a JSON list of objects, or an object with such a list as `faults`")
    return FaultPlan([_numbered(i, fault) for i, fault in enumerate(faults, start=1)], seed=seed)


def _numbered(number: int, fault: Mapping[str, Any]) -> Fault:
    try:
        return Fault.from_json(fault)
    except ValueError as error:
        raise ValueError(f"fault {number}: {error}") from None


def load_faults(path: Path) -> FaultPlan:
    return parse_faults(path.read_text(encoding="utf-8"))


def dump_faults(faults: Iterable[Fault], *, seed: int = 0) -> str:
    return json.dumps({"seed": seed, "faults": [fault.to_json() for fault in faults]}, indent=2)


# Faults from which the real client recovers by itself or which end its push soon, with how often each is drawn.
_DRAWN: tuple[tuple[FaultKind, int], ...] = (
    (FaultKind.REFUSE, 3),
    (FaultKind.STATUS, 5),
    (FaultKind.HANG, 1),
    (FaultKind.RESET_BEFORE, 3),
    (FaultKind.RESET_AFTER, 4),
    (FaultKind.TRUNCATE, 2),
    (FaultKind.SLOW, 1),
    (FaultKind.HTML, 1),
    (FaultKind.DUPLICATE, 3),
    (FaultKind.DOWN, 2),
    (FaultKind.RESTART, 1),
)
_STATUSES = (400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504)
_PLACES = (
    "graphql",
    "graphql:UpsertBucket",
    "graphql:CreateRunFiles",
    "graphql:CreateArtifact",
    "graphql:CommitArtifact",
    "file_stream",
    "file_stream",
    "upload",
    "artifact_upload",
    "any",
)


def random_schedule(seed: int, *, faults: int = 6, longest_s: float = 2.0) -> tuple[Fault, ...]:
    """A whole schedule that the seed names; every fault in it ends by itself (no hang or outage for ever)."""
    generator = random.Random(seed)
    return tuple(_random_fault(generator, longest_s) for _ in range(faults))


def _random_fault(generator: random.Random, longest_s: float) -> Fault:
    kinds, weights = zip(*_DRAWN, strict=True)
    kind = generator.choices(kinds, weights)[0]
    status = generator.choice(_STATUSES)
    timed = kind in (FaultKind.HANG, FaultKind.SLOW, FaultKind.DOWN, FaultKind.RESTART)
    return Fault(
        kind=kind,
        endpoint=generator.choice(_PLACES),
        nth=generator.randint(1, 6),
        times=generator.choice((1, 1, 1, 2, 4)) if kind is not FaultKind.DOWN else None,
        status=status if kind is FaultKind.STATUS else 500,
        retry_after_s=0.1 if kind is FaultKind.STATUS and status == 429 else None,
        seconds=round(generator.uniform(0.05, longest_s), 2) if timed else None,
    )
