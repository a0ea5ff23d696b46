"""Sizes, ages and counts as people read them. Pure."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(size_bytes: int) -> str:
    """Bytes in decimal units: `3.4 MB`."""
    value, unit = float(size_bytes), _UNITS[0]
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{int(value)} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def age(age_s: float) -> str:
    """A duration in its largest unit: `40 s`, `3 h`."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * length_s or (unit == "min" and age_s >= length_s):
            return f"{int(age_s // length_s)} {unit}"
    return f"{int(age_s)} s"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
