"""What a person changed of a run before its delivery: an overlay beside the sealed bytes (docs/format.md).

An overlay belongs to a run as its log names it: to all its fragments, also those that come later, and to its replays.
The sealed bytes and their manifest stay as they are; the push view and the read-back take the overlay into account.
Fails with `DamagedError` for a file that is not an overlay.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import clock, durable
from .entry import Entry
from .errors import DamagedError
from .layout import FORMAT, SpoolPaths
from .queue import Spool

TEXTS = ("name", "project", "entity", "group", "job_type", "notes")
"""What can be replaced. None leaves it as it was logged; an empty text takes it away."""


@dataclass(frozen=True)
class Edit:
    """One overlay."""

    name: str | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Edit()

    def over(self, earlier: Edit) -> Edit:
        """This edit after an earlier one: what it says wins, tags are added up."""
        texts = {key: value for key in TEXTS if (value := getattr(self, key)) is not None}
        return replace(
            earlier,
            **texts,
            add_tags=_union(_without(earlier.add_tags, self.remove_tags), self.add_tags),
            remove_tags=_union(_without(earlier.remove_tags, self.add_tags), self.remove_tags),
        )

    def tags(self, logged: Sequence[str]) -> tuple[str, ...] | None:
        """The run's tags; None where this edit says nothing of them."""
        if not (self.add_tags or self.remove_tags):
            return None
        return _union(_without(logged, self.remove_tags), self.add_tags)

    def as_json(self) -> dict[str, Any]:
        texts = {key: getattr(self, key) for key in TEXTS}
        return {**texts, "add_tags": list(self.add_tags), "remove_tags": list(self.remove_tags)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Edit:
        """Raises TypeError for what is no edit; keys that are not known are ignored."""
        texts = {key: _text(body.get(key)) for key in TEXTS}
        return cls(**texts, add_tags=_texts(body.get("add_tags")), remove_tags=_texts(body.get("remove_tags")))

    def attributes(self, logged_tags: Sequence[str]) -> dict[str, Any]:
        """What the push view overrides, by the names of `log.override_run`; without the target, which is decided."""
        found: dict[str, Any] = {
            "display_name": self.name,
            "group": self.group,
            "job_type": self.job_type,
            "notes": self.notes,
            "tags": self.tags(logged_tags),
        }
        return {key: value for key, value in found.items() if value is not None}


def edit_key(entry: Entry) -> str:
    """The file name that stands for a run in `edits/`."""
    name = "\n".join((entry.base_url or "", entry.entity or "", entry.project or "", entry.run_id or ""))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def load_edit(root: Path, entry: Entry) -> Edit:
    """The overlay of an entry's run; an empty one when there is none. Raises DamagedError or StorageError."""
    path = SpoolPaths(root).edit(edit_key(entry))
    try:
        body = durable.read_json(path)
        if not may_edit(root, entry, path.lstat().st_uid):
            raise DamagedError(
                "somebody else wrote the edit of this run", path=path, hint="its author removes it, and edits anew"
            )
        return Edit.from_json(body)
    except FileNotFoundError:
        return Edit()
    except (ValueError, TypeError) as error:
        raise DamagedError(
            f"the edit can't be understood ({error})", path=path, hint="remove the file, then `wandb-spool edit` again"
        ) from error


def may_edit(root: Path, entry: Entry, uid: int) -> bool:
    """Whether this user may change the run: in a shared spool its author, the spool's owner, who syncs, and root."""
    try:
        if not root.stat().st_mode & stat.S_IWGRP:
            return True
        owners = {path.lstat().st_uid for path in (root, entry.launch_directory(root))}
    except OSError:
        return True  # it is gone: that is told elsewhere
    return uid in owners or uid in (0, os.geteuid())


def save_edit(spool: Spool, entry: Entry, edit: Edit, *, by: str, now_s: float | None = None) -> None:
    """Write an overlay durably, or remove it when it says nothing. Raises StorageError."""
    path = spool.paths.edit(edit_key(entry))
    if not edit:
        durable.remove(path)
        return
    durable.make_directory(path.parent)
    run = {"base_url": entry.base_url, "entity": entry.entity, "project": entry.project, "run_id": entry.run_id}
    body = {
        "format": FORMAT,
        "run": run,
        **edit.as_json(),
        "at": clock.iso(time.time() if now_s is None else now_s),
        "by": by,
    }
    durable.write_json(path, body, mode=spool.file_mode)


def as_edited(root: Path, entry: Entry) -> Entry:
    """The entry with the project and entity to which a person moved its run. For finding its target, nothing else."""
    edit = load_edit(root, entry)
    return replace(entry, project=edit.project or entry.project, entity=edit.entity or entry.entity)


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _without(tags: Sequence[str], unwanted: Sequence[str]) -> tuple[str, ...]:
    return tuple(tag for tag in tags if tag not in unwanted)


def _text(value: object) -> str | None:
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"{value!r} is not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{value!r} is not a list of texts")
    return tuple(value)
