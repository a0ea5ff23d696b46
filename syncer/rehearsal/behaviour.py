"""What the rehearsal server does where W&B's own behaviour is unknown, configurable or a matter of luck.

Pure data. A `Behaviour` is replaced as a whole (`dataclasses.replace`), never edited, so a request sees either the
old one or the new one. `from_json` refuses unknown names: a misspelled switch must not look like a passed rehearsal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

DEFAULT_ENTITY = "rehearsal"
ANY_ENTITY = "*"


class DuplicateSteps(Enum):
    """Which line a reader of the history sees when several lines carry the same `_step`."""

    DROP = "drop"  # the first line that was written; later ones are not shown
    REPLACE = "replace"  # the last one
    KEEP = "keep"  # all of them


class LineCounts(Enum):
    """What the server says of the lines it holds, when a run is created again or resumed."""

    REPORTED = "reported"
    ZERO = "zero"
    NULL = "null"


class StreamTail(Enum):
    """What becomes of the lines behind a chunk that was written at an offset within the file."""

    KEEP = "keep"
    CUT = "cut"


@dataclass(frozen=True)
class Account:
    """A key, the entity it belongs to, and the further entities that it may write to (`*`: all)."""

    key: str
    entity: str = DEFAULT_ENTITY
    teams: tuple[str, ...] = ()

    def may_write(self, entity: str) -> bool:
        return entity == self.entity or entity in self.teams or ANY_ENTITY in self.teams


@dataclass(frozen=True)
class Behaviour:
    """The switches; the defaults are the most likely behaviour of the real service."""

    duplicates: DuplicateSteps = DuplicateSteps.DROP
    line_counts: LineCounts = LineCounts.REPORTED
    stream_tail: StreamTail = StreamTail.KEEP
    file_md5: bool = True  # False: the listing says null, which proves nothing
    non_finite: bool = True  # False: NaN and infinities are told as null, by a server whose JSON has none
    late_s: float = 0.0  # history, files and artifacts show up this much later
    deduplicated_outputs: bool = True  # a run that logs known content has that version among its outputs
    gzip: bool = True  # offers FILESTREAM_GZIP
    requests_per_s: float | None = None  # more are answered 429
    retry_after_s: float | None = 1.0  # sent with 429
    max_body_bytes: int | None = None  # larger requests are answered 413
    entity: str | None = None  # the entity of the default key, when not `rehearsal`
    fsync: bool = False  # survive a power cut too, not only the death of the process

    def changed(self, **changes: Any) -> Behaviour:
        """This behaviour with some switches set; enum values may be given by their text."""
        unknown = changes.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"unknown switch of the rehearsal server: {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **{name: _switch(name, value) for name, value in changes.items()})

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Behaviour:
        return cls().changed(**data)


_ENUMS: Mapping[str, type[Enum]] = {
    "duplicates": DuplicateSteps,
    "line_counts": LineCounts,
    "stream_tail": StreamTail,
}


def _switch(name: str, value: Any) -> Any:
    return _ENUMS[name](value) if name in _ENUMS else value
