"""What the rehearsal server holds, in memory: projects, runs, artifacts. Data and look-ups, no input or output."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wandb_spool.syncer.rehearsal.blobs import Blob

PENDING, COMMITTED, DELETED = "PENDING", "COMMITTED", "DELETED"


class ProjectKey(NamedTuple):
    entity: str
    project: str


class RunKey(NamedTuple):
    entity: str
    project: str
    run_id: str

    @property
    def home(self) -> ProjectKey:
        return ProjectKey(self.entity, self.project)

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/{self.run_id}"


def global_id(kind: str, *parts: object) -> str:
    """An id as W&B's GraphQL writes it: base64 of the kind and what identifies the thing."""
    return base64.b64encode(":".join([kind, *map(str, parts)]).encode()).decode()


def id_parts(text: str, kind: str) -> list[str] | None:
    """The parts that `global_id` was given, or None for an id of another kind."""
    try:
        parts = base64.b64decode(text, validate=True).decode().split(":")
    except ValueError:
        return None
    return parts[1:] if parts[0] == kind else None


@dataclass
class StoredFile:
    """A file of a run or of an artifact."""

    name: str
    blob: Blob
    updated_at: float
    uploads: int = 1


@dataclass
class Alert:
    """One alert that a run raised; W&B would have told somebody."""

    run: RunKey
    title: str
    text: str
    severity: str
    time: float


@dataclass
class Project:
    key: ProjectKey
    number: int
    created_at: float
    description: str = ""
    runs: list[RunKey] = field(default_factory=list)

    @property
    def id(self) -> str:
        return global_id("Project", "v1", self.key.project, self.key.entity)


@dataclass
class Run:
    key: RunKey
    number: int
    created_at: float
    username: str
    attributes: dict[str, Any] = field(default_factory=dict)  # what UpsertBucket sets, under its GraphQL names
    state: str = "running"
    exit_code: int | None = None
    heartbeat_at: float = 0.0
    stop_requested: bool = False
    deleted: bool = False
    files: dict[str, StoredFile] = field(default_factory=dict)
    outputs: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    @property
    def id(self) -> str:
        return global_id("Run", "v1", self.key.run_id, self.key.project, self.key.entity)


class CollectionKey(NamedTuple):
    entity: str
    project: str
    name: str


@dataclass
class Collection:
    """The versions of one artifact; a portfolio holds versions that were linked from elsewhere."""

    key: CollectionKey
    number: int
    type: str
    created_at: float
    portfolio: bool = False
    versions: list[int] = field(default_factory=list)  # artifact numbers; the index is the version
    aliases: dict[str, int] = field(default_factory=dict)
    files: dict[tuple[str, str], int] = field(default_factory=dict)  # name, digest → artifact that brought it

    @property
    def id(self) -> str:
        return global_id("ArtifactCollection", self.number)


@dataclass
class ManifestEntry:
    path: str
    digest: str
    size_bytes: int
    birth: int | None  # the artifact whose upload brought the bytes; None: a reference


@dataclass
class Artifact:
    number: int
    collection: CollectionKey
    digest: str
    created_at: float
    state: str = PENDING
    version: int | None = None
    committed_at: float = 0.0
    created_by: RunKey | None = None
    client_id: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    wanted_aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    uploads: dict[str, Blob] = field(default_factory=dict)  # by digest, base64
    manifest: Blob | None = None
    manifest_digest: str | None = None
    entries: list[ManifestEntry] = field(default_factory=list)

    @property
    def id(self) -> str:
        return global_id("Artifact", self.number)

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.entries)
