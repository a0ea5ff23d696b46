"""The shape of a run's history in a few characters. Pure but for `read_trends`, which reads a log.

Memory does not grow with the run: a series keeps at most 128 means and halves itself when it is full.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*#@"
_POINTS = 128
_SERIES = 200  # more keys than that are not looked at
READ_LIMIT_S = 2.0


@dataclass
class Series:
    """The values of one key, thinned out evenly."""

    last: float = math.nan
    points: list[float] = field(default_factory=list)
    _each: int = 1  # how many values a point stands for
    _sum: float = 0.0
    _count: int = 0

    def add(self, value: float) -> None:
        self.last = value
        if not math.isfinite(value):
            return
        self._sum += value
        self._count += 1
        if self._count == self._each:
            self.points.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
            if len(self.points) == _POINTS:
                self._halve()

    def _halve(self) -> None:
        self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
        self._each *= 2

    def values(self) -> list[float]:
        return [*self.points, self._sum / self._count] if self._count else self.points


@dataclass(frozen=True)
class Trends:
    """The numeric series of a log, in the order in which their keys appeared."""

    series: Mapping[str, Series]
    rows: int
    complete: bool


def read_trends(log: Path, *, limit_s: float = READ_LIMIT_S) -> Trends:
    """The series of a log, as far as they can be read in `limit_s`. Raises OSError."""
    from wandb_spool.spool.log import rows

    deadline = time.monotonic() + limit_s
    series: dict[str, Series] = {}
    number = 0
    for number, row in enumerate(rows(log), start=1):
        take(series, row.values)
        if number % 256 == 0 and time.monotonic() > deadline:
            return Trends(series, number, complete=False)
    return Trends(series, number, complete=True)


def take(series: dict[str, Series], values: Mapping[str, object]) -> None:
    """Add the numbers of one row."""
    for key, value in values.items():
        if key.startswith("_") or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        known = series.get(key)
        if known is None:
            if len(series) >= _SERIES:
                continue
            known = series[key] = Series()
        try:
            known.add(float(value))
        except OverflowError:
            continue


def sparkline(values: Iterable[float], *, width: int = 24, unicode: bool = True) -> str:
    """Values as a row of bars, thinned to `width`; empty for no values."""
    points = thin(list(values), width)
    if not points:
        return ""
    bars = _BARS if unicode else _ASCII_BARS
    low, high = min(points), max(points)
    if not math.isfinite(high - low) or high == low:
        return bars[0] * len(points)
    return "".join(bars[min(len(bars) - 1, int((point - low) / (high - low) * len(bars)))] for point in points)


def thin(values: list[float], width: int) -> list[float]:
    """At most `width` means over even stretches."""
    if len(values) <= width:
        return values
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def number(value: object) -> str:
    """A value for people: four digits that matter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = str(value)
        return text if len(text) <= 40 else text[:39] + "…"
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return f"{value:.4g}"
