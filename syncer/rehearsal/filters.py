"""The filters and orders that wandb.Api sends for lists of runs: MongoDB's operators over a run's properties. Pure.

`matches(document, filters)` knows `$and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $exists $regex`; another
operator is a ValueError: an answer that quietly ignored a filter would be a wrong answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def matches(document: Document, filters: Document) -> bool:
    """Whether the document satisfies every condition."""
    return all(_condition(document, name, wanted) for name, wanted in filters.items())


def _condition(document: Document, name: str, wanted: Any) -> bool:
    if name == "$and":
        return all(matches(document, each) for each in wanted)
    if name == "$or":
        return any(matches(document, each) for each in wanted)
    if name == "$nor":
        return not any(matches(document, each) for each in wanted)
    if name == "$not":
        return not matches(document, wanted)
    value = lookup(document, name)
    if isinstance(wanted, dict) and any(key.startswith("$") for key in wanted):
        return all(_operator(value, operator, operand) for operator, operand in wanted.items())
    return _equals(value, wanted)


def lookup(document: Document, path: str) -> Any:
    """The value at a dotted path, or None; the longest name wins, so keys may contain dots themselves."""
    if path in document:
        return document[path]
    head, dot, rest = path.partition(".")
    while dot:
        inner = document.get(head)
        if isinstance(inner, Mapping) and (found := lookup(inner, rest)) is not None:
            return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def _equals(value: Any, wanted: Any) -> bool:
    return bool(value == wanted or (isinstance(value, list) and wanted in value))


def _operator(value: Any, operator: str, operand: Any) -> bool:
    try:
        test = _OPERATORS[operator]
    except KeyError:
        raise ValueError(f"unknown filter operator {operator!r}") from None
    return test(value, operand)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(value: Any, operand: Any) -> bool:
        try:
            return value is not None and compare(value, operand)
        except TypeError:
            return False

    return test


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": _equals,
    "$ne": lambda value, operand: not _equals(value, operand),
    "$gt": _ordered(lambda value, operand: value > operand),
    "$gte": _ordered(lambda value, operand: value >= operand),
    "$lt": _ordered(lambda value, operand: value < operand),
    "$lte": _ordered(lambda value, operand: value <= operand),
    "$in": lambda value, operand: any(_equals(value, each) for each in operand),
    "$nin": lambda value, operand: not any(_equals(value, each) for each in operand),
    "$exists": lambda value, operand: (value is not None) == bool(operand),
    "$regex": lambda value, operand: isinstance(value, str) and re.search(operand, value) is not None,
    "$not": lambda value, operand: not all(_operator(value, *pair) for pair in operand.items()),
}


def ordered(documents: Sequence[Document], order: str | None) -> list[Document]:
    """By `+key` or `-key` (several, separated by commas); what has no value comes last."""
    result = list(documents)
    for part in reversed((order or "+created_at").split(",")):
        falling, name = part.startswith("-"), part.lstrip("+-")
        known = [d for d in result if lookup(d, name) is not None]
        unknown = [d for d in result if lookup(d, name) is None]
        known.sort(key=lambda d, name=name: _sortable(lookup(d, name)), reverse=falling)  # type: ignore[misc]
        result = known + unknown
    return result


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))
