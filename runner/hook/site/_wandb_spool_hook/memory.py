"""What a run's log says that a new fragment has to be told again: its summary, and its defined metrics.

Read from the log of a dead fragment, in the log's own order, so that the later of an explicit value and a logged one
stands. Aggregates (``define_metric(summary="max")``) are kept over all fragments: wandb-core would begin them anew.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

Path = Tuple[str, ...]
OPERATIONS = ("min", "max", "mean", "first")
INTERNAL = ("_step", "_timestamp", "_runtime", "_wandb")


class Aggregate:
    """Minimum, maximum, sum, count and first of one logged key."""

    __slots__ = ("count", "first", "max", "min", "sum")

    def __init__(self, value: float) -> None:
        self.min = self.max = self.first = value
        self.sum, self.count = 0.0, 0
        self.add(value)

    def add(self, value: float) -> None:
        self.min, self.max = min(self.min, value), max(self.max, value)
        self.sum, self.count = self.sum + value, self.count + 1

    def copy(self) -> Aggregate:
        copy = Aggregate(0.0)
        for name in self.__slots__:
            setattr(copy, name, getattr(self, name))
        return copy

    def value(self, operation: str) -> float:
        return self.sum / self.count if operation == "mean" else float(getattr(self, operation))


class Memory:
    def __init__(self) -> None:
        self.metrics: Dict[str, Any] = {}  # by name or glob, in the order of definition
        self._values: Dict[Path, str] = {}
        self._aggregates: Dict[Path, Aggregate] = {}

    def read(self, record: Any) -> None:
        """Take in one record of a log (``wandb_internal_pb2.Record``)."""
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self.log(record.history)
        elif kind == "summary":
            for item in record.summary.remove:
                self._values.pop(_path(item), None)
            for item in record.summary.update:
                self._summarized(_path(item), item.value_json)
        elif kind == "metric" and not getattr(record.metric, "expanded_from_glob", False):
            self.metrics[record.metric.name or record.metric.glob_name] = record.metric

    def log(self, history: Any) -> None:
        """Take in what a row (or one call of it) holds."""
        for item in history.item:
            self._logged(_path(item), _json_of(item))

    def fork(self) -> Optional[Memory]:
        """A copy to go on counting with; None if no metric is aggregated."""
        if not self.aggregated():
            return None
        copy = Memory()
        copy.metrics = dict(self.metrics)
        copy._aggregates = {path: aggregate.copy() for path, aggregate in self._aggregates.items()}
        return copy

    def _summarized(self, path: Path, value_json: str) -> None:
        """wandb-core itself writes the summary after each row; of an aggregate it knows only this fragment."""
        governed = path in self._aggregates and self._operations(path) is not None
        if path[0] not in INTERNAL and not governed:
            self._values[path] = value_json

    def _logged(self, path: Path, value_json: str) -> None:
        if path[0] in INTERNAL:
            return
        self._values[path] = value_json
        try:
            number = float(value_json)
        except ValueError:
            return
        aggregate = self._aggregates.get(path)
        if aggregate is None:
            self._aggregates[path] = Aggregate(number)
        else:
            aggregate.add(number)

    def _operations(self, path: Path) -> Optional[List[str]]:
        """The summary operations of the metric that governs a key; None if there is none."""
        name = ".".join(path)
        for known, metric in reversed(list(self.metrics.items())):
            if (known == name or (known.endswith("*") and name.startswith(known[:-1]))) and metric.HasField("summary"):
                return [field.name for field, on in metric.summary.ListFields() if on]
        return None

    def summary(self, aggregated: bool = True) -> Dict[Path, str]:
        """The whole summary as wandb would show it now, as JSON by path."""
        answer: Dict[Path, str] = {}
        for path, value in self._values.items():
            operations = self._operations(path) if path in self._aggregates else None
            if operations is None or "last" in operations:
                shown = path if operations is None else (*path, "last")
                answer[shown] = value
        if aggregated:
            answer.update(self.aggregated())
        return answer

    def nested_summary(self) -> Dict[str, Any]:
        answer: Dict[str, Any] = {}
        for path, value in self.summary().items():
            inner = answer
            for name in path[:-1]:
                found = inner.setdefault(name, {})
                inner = found if isinstance(found, dict) else {}
            inner[path[-1]] = json.loads(value)
        return answer

    def aggregated(self) -> Dict[Path, str]:
        answer: Dict[Path, str] = {}
        for path, aggregate in self._aggregates.items():
            for operation in self._operations(path) or ():
                if operation in OPERATIONS:
                    shown = (*path, operation)
                    answer[shown] = json.dumps(aggregate.value(operation))
        return answer


def time_of(history: Any) -> float:
    """The time stamp of a row, or of the call that it was made of; -1 if there is none."""
    return next((float(_json_of(item)) for item in history.item if _path(item) == ("_timestamp",)), -1.0)


def _path(item: Any) -> Path:
    return tuple(item.nested_key) or (item.key,)


def _json_of(item: Any) -> str:
    """Values come as JSON, or typed (newer releases)."""
    if item.value_json:
        return str(item.value_json)
    for name in ("boolean", "integer", "number", "text", "json"):
        if name in item.DESCRIPTOR.fields_by_name and item.HasField(name):
            value = getattr(item, name)
            return str(value) if name == "json" else json.dumps(value)
    return "null"
