"""The entry: the small JSON file in `queue/` that stands for one fragment (docs/format.md).

Immutable; a change is a new value. Keys that this version does not know are kept. A body that is not what format 1 says
raises `DamagedError` with the path and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from . import clock, durable
from .errors import DamagedError, SpoolFormatError
from .identity import Identity
from .layout import ENTRY_NAME, FORMAT, safe_relative
from .states import State

HISTORY_LIMIT = 50


@dataclass(frozen=True)
class Target:
    """A target run: where a fragment goes. Resolved and recorded before the first push."""

    destination: str
    base_url: str
    entity: str
    project: str
    run_id: str

    def as_json(self) -> dict[str, str]:
        return {
            "destination": self.destination,
            "base_url": self.base_url,
            "entity": self.entity,
            "project": self.project,
            "run_id": self.run_id,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Target:
        return cls(**{key: str(value[key]) for key in ("destination", "base_url", "entity", "project", "run_id")})

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.run_id}"


@dataclass(frozen=True)
class Replay:
    """What a person asked `replay` to change of a fragment's target."""

    destination: str | None = None
    entity: str | None = None
    project: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Entry:
    """One fragment's place in the queue."""

    name: str
    launch: str
    fragment: str
    path: str
    created: str
    run_id: str | None = None
    project: str | None = None
    entity: str | None = None
    display_name: str | None = None
    base_url: str | None = None
    writer: Identity | None = None
    predecessor: str | None = None
    command: str | None = None
    manifest_sha256: str | None = None
    rows: int | None = None
    size_bytes: int | None = None
    attempts: int = 0
    refusals: int = 0
    not_before: str | None = None
    backoff_s: float = 0.0
    reason: str | None = None
    mend: str | None = None
    target: Target | None = None
    replay: Replay | None = None
    receipt: dict[str, Any] | None = None
    history: tuple[dict[str, Any], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def run_directory(self, root: Path) -> Path:
        return root / self.path

    def launch_directory(self, root: Path) -> Path:
        return (root / self.path).parent.parent

    def with_event(self, *, source: State, target: State, by: str, now_s: float, why: str | None) -> Entry:
        """This entry with one more line of history."""
        event: dict[str, Any] = {"at": clock.iso(now_s), "from": source.value, "to": target.value, "by": by}
        if why:
            event["why"] = why
        return replace(self, history=(*self.history, event)[-HISTORY_LIMIT:])

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"format": FORMAT, **self.extra}
        for item in fields(self):
            if item.name in ("name", "extra", "display_name"):
                continue
            body[item.name] = getattr(self, item.name)
        body["entry"] = self.name
        body["name"] = self.display_name
        body["writer"] = None if self.writer is None else self.writer.as_json()
        body["target"] = None if self.target is None else self.target.as_json()
        body["replay"] = None if self.replay is None else dict(vars(self.replay))
        body["history"] = list(self.history)
        return body


_KNOWN = {item.name for item in fields(Entry)} - {"name", "extra", "display_name"} | {
    "entry",
    "name",
    "format",
}
_TEXTS = (
    "run_id", "project", "entity", "base_url", "predecessor", "command", "manifest_sha256", "not_before", "reason",
    "mend",
)  # fmt: skip
_NUMBERS = ("rows", "size_bytes")


def entry_from_json(name: str, body: Mapping[str, Any]) -> Entry:
    """Build an entry from a body; raises ValueError with what is wrong in one phrase."""
    if _count(body, "format") > FORMAT:
        raise SpoolFormatError(f"the entry {name} is of format {body['format']}, this version reads {FORMAT}")
    match = ENTRY_NAME.match(name)
    if match is None:
        raise ValueError("the name is not LAUNCH.FRAGMENT")
    path = body.get("path")
    if not isinstance(path, str) or safe_relative(path) is None:
        raise ValueError("`path` is missing or leads out of the spool")
    for key in _TEXTS:
        if not isinstance(body.get(key), (str, type(None))):
            raise ValueError(f"`{key}` is not a text")
    for key in _NUMBERS:
        if not isinstance(body.get(key), (int, type(None))):
            raise ValueError(f"`{key}` is not a number")
    return Entry(
        name=name,
        launch=match["launch"],
        fragment=match["fragment"],
        path=path,
        created=str(body.get("created") or ""),
        **{key: body.get(key) for key in (*_TEXTS, *_NUMBERS)},
        display_name=body.get("name") if isinstance(body.get("name"), str) else None,
        writer=Identity.from_json(body.get("writer")),
        attempts=_count(body, "attempts"),
        refusals=_count(body, "refusals"),
        backoff_s=float(body.get("backoff_s") or 0.0),
        target=_target(body.get("target")),
        replay=_replay(body.get("replay")),
        receipt=body.get("receipt") if isinstance(body.get("receipt"), dict) else None,
        history=tuple(item for item in body.get("history") or () if isinstance(item, dict)),
        extra={key: value for key, value in body.items() if key not in _KNOWN},
    )


def read_entry(path: Path, name: str) -> Entry:
    """Read an entry. Raises FileNotFoundError when it moved meanwhile, DamagedError when it is no entry."""
    try:
        return entry_from_json(name, durable.read_json(path))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedError(
            f"the entry is damaged ({error})",
            path=path,
            hint="nothing of the run itself is lost: `wandb-spool recover` writes the entry anew from its manifest",
        ) from error


def _count(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key) or 0
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"`{key}` is not a count")
    return value


def _target(value: object) -> Target | None:
    return Target.from_json(value) if isinstance(value, dict) else None


def _replay(value: object) -> Replay | None:
    if not isinstance(value, dict):
        return None
    return Replay(**{key: value.get(key) for key in ("destination", "entity", "project", "run_id")})
