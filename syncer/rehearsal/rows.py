"""What a history line is: its step, its value and its identity. Pure.

Two lines hold the same *value* when they agree in everything but `_step`, `_runtime` and `_timestamp` (NaN and
infinities equal themselves, `{"a": {"b": 1}}` equals `{"a.b": 1}`). They are the same *row* when their `_timestamp`
agrees too: wandb stamps a row once, where it is logged, so a row that comes again or on another step is still
recognised, while a metric that merely stays constant is not taken for one.
"""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any

_CLOCKS = ("_step", "_runtime", "_timestamp")


def parse_row(line: bytes) -> dict[str, Any]:
    """A history line as a row; what is not a JSON object is an empty row."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def row_step(row: dict[str, Any], line_number: int) -> int:
    """The step of a row; a row without one counts under its line number."""
    step = row.get("_step")
    if isinstance(step, int):
        return step
    return int(step) if isinstance(step, float) and math.isfinite(step) else line_number


def value_digest(row: dict[str, Any]) -> int:
    """64 bits that two rows share when they hold the same value."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key not in _CLOCKS:
            _flatten(key, value, flat)
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"))
    return _digest(text)


def row_digest(row: dict[str, Any]) -> int:
    """64 bits that two lines share when they are the same logged row."""
    return _digest(f"{row.get('_timestamp')!r} {value_digest(row)}")


def json_safe(value: Any) -> Any:
    """The value with NaN and infinities as strings, so that it is JSON for everybody."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item) for item in value]
    return value


def kind(value: Any) -> str:
    """The type that W&B's list of metrics tells for a value."""
    if isinstance(value, dict):
        return str(value.get("_type", "map"))
    return {str: "string", list: "array", bool: "boolean"}.get(type(value), "number")


def _flatten(key: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict) and value and "_type" not in value:
        for name, item in value.items():
            _flatten(f"{key}.{name}", item, into)
    else:
        into[key] = json_safe(value)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
