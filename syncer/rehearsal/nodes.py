"""The GraphQL types as Python objects: attributes and methods are named as the fields in `schema.graphql`.

Read only. What is shown late (`Behaviour.late_s`) is decided here; what a client writes by (`bucket`: the answers to
UpsertBucket and RunResumeStatus) is always the truth of the moment.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from wandb_spool.syncer.rehearsal import filters as run_filters
from wandb_spool.syncer.rehearsal.artifact_changes import artifact_of, hex_digest
from wandb_spool.syncer.rehearsal.behaviour import ANY_ENTITY, Account, Behaviour, LineCounts
from wandb_spool.syncer.rehearsal.blobs import Blob
from wandb_spool.syncer.rehearsal.links import Links
from wandb_spool.syncer.rehearsal.model import (
    COMMITTED,
    Artifact,
    Collection,
    CollectionKey,
    ManifestEntry,
    Project,
    ProjectKey,
    Run,
    RunKey,
    StoredFile,
    global_id,
)
from wandb_spool.syncer.rehearsal.rows import json_safe, parse_row
from wandb_spool.syncer.rehearsal.store import CONSOLE, EVENTS, Store

Node = dict[str, Any]
MAX_PAGE = 10_000
TTL_INHERITED = -2  # how W&B says that a version has no time to live of its own


@dataclass(frozen=True)
class Context:
    """One request: who asks, what is known, and where the answer's links point."""

    store: Store
    behaviour: Behaviour
    account: Account
    links: Links

    @property
    def shown_before(self) -> float | None:
        """What arrived later than this is not shown yet; None: everything is."""
        late_s = self.behaviour.late_s
        return self.store.clock() - late_s if late_s > 0 else None

    def shows(self, arrived: float) -> bool:
        return self.shown_before is None or arrived <= self.shown_before


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def page(items: Sequence[Any], node: Callable[[Any], Any], first: int | None, after: str | None) -> Node:
    """A connection: `first` of the items behind the cursor `after`; nodes are made only for these."""
    start = int(after) + 1 if after and after.isdigit() else 0
    end = min(start + (MAX_PAGE if first is None else max(first, 0)), len(items))
    edges = [{"cursor": str(i), "node": node(items[i])} for i in range(start, end)]
    info = {"endCursor": edges[-1]["cursor"] if edges else None, "hasNextPage": end < len(items)}
    return {"edges": edges, "pageInfo": info, "totalCount": len(items)}


# ---- people and places -------------------------------------------------------------------------------


def user(account: Account) -> Node:
    name = account.entity
    return {
        "id": global_id("User", name),
        "name": name,
        "username": name,
        "email": f"{name}@example.invalid",
        "admin": False,
        "flags": "{}",
        "entity": name,
        "apiKeys": {"edges": []},
        "teams": {"edges": [{"node": entity_node(team)} for team in account.teams if team != ANY_ENTITY]},
        "organizations": [],
    }


def entity_node(entity: str) -> Node:
    return {
        "id": global_id("Entity", entity),
        "name": entity,
        "available": True,
        "readOnly": False,
        "isTeam": False,
        "entityType": "user",
        "storageBytes": 0,
        "xxhashDigestsEnabled": False,
        "members": [],
        "project": lambda info, name=None: project_node(info.context, entity, name),
    }


def project_node(context: Context, entity: str | None, name: str | None) -> ProjectNode | None:
    key = ProjectKey(entity or context.account.entity, name or "uncategorized")
    project = context.store.projects.get(key)
    return ProjectNode(context, project) if project and context.account.may_write(key.entity) else None


class ProjectNode:
    """Project."""

    isBenchmark = False
    readOnly = False
    access = "PRIVATE"
    views = "{}"
    totalSweeps = 0

    def __init__(self, context: Context, project: Project) -> None:
        self._context, self._project = context, project
        self.id, self.internalId = project.id, str(project.number)
        self.name, self.entityName = project.key.project, project.key.entity
        self.entity, self.user = entity_node(project.key.entity), user(context.account)
        self.description = project.description
        self.createdAt = self.updatedAt = timestamp(project.created_at)

    def run(self, info: Any, name: str) -> RunNode | None:
        return self._run(name, late=True)

    def bucket(self, info: Any, name: str, missingOk: bool = False) -> RunNode | None:
        return self._run(name, late=False)

    def runCount(self, info: Any, filters: str | None = None) -> int:
        return len(self._matching(filters, None))

    def runs(
        self,
        info: Any,
        filters: str | None = None,
        after: str | None = None,
        first: int | None = None,
        order: str | None = None,
    ) -> Node:
        return page(self._matching(filters, order), lambda node: node, first, after)

    def sweep(self, info: Any, sweepName: str) -> None:
        return None

    def sweeps(self, info: Any, **args: Any) -> Node:
        return page([], lambda node: node, None, None)

    def artifact(self, info: Any, name: str) -> ArtifactNode | None:
        membership = self.artifactCollectionMembership(info, name)
        return membership.artifact if membership else None

    def artifactType(self, info: Any, name: str) -> ArtifactTypeNode | None:
        return ArtifactTypeNode(self._context, self._project, name) if name in self._types() else None

    def artifactTypes(self, info: Any, after: str | None = None, first: int | None = None, **_: Any) -> Node:
        types = self._types()
        return page(types, lambda name: ArtifactTypeNode(self._context, self._project, name), first, after)

    def artifactCollection(self, info: Any, name: str) -> CollectionNode | None:
        return collection_node(self._context, CollectionKey(*self._project.key, name))

    def artifactCollections(self, info: Any, after: str | None = None, first: int | None = None, **_: Any) -> Node:
        names = [c.key for c in _collections(self._context.store, self._project.key)]
        return page(names, lambda key: collection_node(self._context, key), first, after)

    def artifactCollectionMembership(self, info: Any, name: str) -> MembershipNode | None:
        collection, _, version = name.partition(":")
        node = self.artifactCollection(info, collection)
        return node.artifactMembership(info, version or "latest") if node else None

    def _types(self) -> list[str]:
        return sorted({c.type for c in _collections(self._context.store, self._project.key)})

    def _run(self, name: str, *, late: bool) -> RunNode | None:
        run = self._context.store.runs.get(RunKey(*self._project.key, name))
        return RunNode(self._context, run, late=late) if run and not run.deleted else None

    def _matching(self, filters: str | None, order: str | None) -> list[RunNode]:
        wanted = json.loads(filters) if filters else {}
        documents = [self._document(self._context.store.runs[key]) for key in self._project.runs]
        found = [document for document in documents if run_filters.matches(document, wanted)]
        return [document["_node"] for document in run_filters.ordered(found, order)]

    def _document(self, run: Run) -> Node:
        """A run under the names by which filters and orders know its properties."""
        node = RunNode(self._context, run, late=True)
        config = _filterable(node.config_tree)
        shown = {"_node": node, "config": config, "summary_metrics": json.loads(node.summaryMetrics)}
        names = {
            "name": node.name,
            "display_name": node.displayName,
            "state": node.state,
            "tags": node.tags,
            "group": node.group,
            "job_type": node.jobType,
            "sweep": node.sweepName,
            "created_at": node.createdAt,
            "heartbeat_at": node.heartbeatAt,
        }
        camel = {"displayName": node.displayName, "jobType": node.jobType, "createdAt": node.createdAt}
        return {**shown, **names, **camel, "username": run.username}


def _filterable(config: Mapping[str, Any]) -> Node:
    """The config by both paths that filters use: `config.lr` and `config.lr.value`."""
    values = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in config.items()}
    given = {key: value for key, value in values.items() if key != "_wandb"}
    return {**given, **{f"{key}.value": value for key, value in given.items()}}


# ---- runs ----------------------------------------------------------------------------------------------


class RunNode:
    """Run; `late`: as a reader sees it, not as a writer needs it."""

    typename = "Run"
    readOnly = False
    systemMetrics = "{}"

    def __init__(self, context: Context, run: Run, *, late: bool) -> None:
        self._context, self._run = context, run
        self._before = context.shown_before if late else None
        attributes = run.attributes
        self.id, self.name = run.id, run.key.run_id
        self.displayName, self.sweepName = attributes.get("displayName"), attributes.get("sweepName")
        self.state, self.exitCode = run.state, run.exit_code
        self.config = self._told(attributes.get("config", "{}"))
        self.group, self.jobType = attributes.get("group"), attributes.get("jobType")
        self.commit, self.host = attributes.get("commit"), attributes.get("host")
        self.description, self.notes = attributes.get("description"), attributes.get("notes")
        self.tags = attributes.get("tags", [])
        self.createdAt, self.heartbeatAt = timestamp(run.created_at), timestamp(run.heartbeat_at)
        self.stopped = run.stop_requested

    @property
    def user(self) -> Node:
        return user(Account("", self._run.username))

    @property
    def project(self) -> ProjectNode:
        return ProjectNode(self._context, self._context.store.projects[self._run.key.home])

    @property
    def projectId(self) -> str:
        return str(self._context.store.projects[self._run.key.home].number)

    @property
    def config_tree(self) -> dict[str, Any]:
        return dict(json.loads(self.config))

    def wandbConfig(self, info: Any, keys: Sequence[str] | None = None) -> str:
        internal = self.config_tree.get("_wandb", {}).get("value", {})
        return json.dumps({key: value for key, value in internal.items() if keys is None or key in keys})

    @cached_property
    def summaryMetrics(self) -> str:
        return self._told(self._context.store.summary(self._run.key))

    @property
    def _history(self) -> Any:
        return self._context.store.history(self._run.key)

    @property
    def historyLineCount(self) -> int | None:
        return self._count(self._history.count(before=self._before))

    @property
    def eventsLineCount(self) -> int | None:
        return self._count(self._context.store.stream(self._run.key, EVENTS).count())

    @property
    def logLineCount(self) -> int | None:
        return self._count(self._context.store.stream(self._run.key, CONSOLE).count())

    def _count(self, lines: int) -> int | None:
        counts = self._context.behaviour.line_counts
        return None if counts is LineCounts.NULL else 0 if counts is LineCounts.ZERO else lines

    @property
    def historyTail(self) -> str:
        return json.dumps(self._history.tail(1))

    @property
    def eventsTail(self) -> str:
        return json.dumps(self._context.store.stream(self._run.key, EVENTS).tail(1))

    @property
    def historyKeys(self) -> Node | None:
        last_step = self._history.last_step(before=self._before)
        if last_step is None:
            return None
        keys = {key: {"typeCounts": [{"type": kind}]} for key, kind in self._history.keys.items()}
        return {"sets": [], "keys": keys, "lastStep": last_step}

    def history(
        self, info: Any, minStep: int | None = None, maxStep: int | None = None, samples: int | None = None
    ) -> list[str]:
        numbers = _sampled(self._select(minStep, maxStep), samples)
        lines = [line.decode("utf-8", "replace") for line in self._history.read(numbers)]
        return [self._told(line) for line in lines]

    def _told(self, text: str) -> str:
        """JSON as this server has it."""
        if self._context.behaviour.non_finite:
            return text
        return json.dumps(json.loads(text, parse_constant=lambda name: None))

    def events(self, info: Any, samples: int | None = None) -> list[str]:
        stream = self._context.store.stream(self._run.key, EVENTS)
        return [line.decode("utf-8", "replace") for line in stream.read(_sampled(stream.numbers(), samples))]

    def sampledHistory(self, info: Any, specs: Sequence[str]) -> list[list[Node]]:
        return [self._sample(json.loads(spec)) for spec in specs]

    def _sample(self, spec: Mapping[str, Any]) -> list[Node]:
        """The rows that have all the keys of a spec, reduced to them; its maxStep is inclusive."""
        last = spec.get("maxStep")
        numbers = self._select(spec.get("minStep"), None if last is None else last + 1)
        keys = list(dict.fromkeys(spec.get("keys", [])))
        rows = (parse_row(line) for line in self._history.read(numbers))
        full = [{key: json_safe(row[key]) for key in keys} for row in rows if all(key in row for key in keys)]
        return [full[i] for i in _sampled(range(len(full)), spec.get("samples"))]

    def _select(self, min_step: int | None, max_step: int | None) -> list[int]:
        duplicates = self._context.behaviour.duplicates
        return list(self._history.select(min_step, max_step, duplicates, before=self._before))

    def parquetHistory(self, info: Any, liveKeys: Sequence[str]) -> Node:
        """Nothing is exported: everything from the first step on is to be read live."""
        first = self._select(None, None)[:1]
        return {"parquetUrls": [], "liveData": [{"_step": self._history.steps[n]} for n in first]}

    def logLines(
        self,
        info: Any,
        first: int | None = None,
        last: int | None = None,
        after: str | None = None,
        useImprovedPagination: bool = False,
    ) -> Node:
        stream = self._context.store.stream(self._run.key, CONSOLE)
        numbers = stream.numbers()
        numbers = numbers[-last:] if last else numbers
        return page(numbers, lambda n: _log_line(n, next(iter(stream.read([n])))), first, after)

    @property
    def fileCount(self) -> int:
        return len(self._files())

    def files(
        self,
        info: Any,
        names: Sequence[str] | None = None,
        pattern: str | None = None,
        after: str | None = None,
        first: int | None = None,
    ) -> Node:
        like = re.compile(re.escape(pattern).replace("%", ".*").replace("_", ".") if pattern else ".*", re.DOTALL)
        found = [f for f in self._files() if (not names or f.name in names) and like.fullmatch(f.name)]
        return page(found, lambda f: run_file(self._context, self._run, f), first, after)

    def _files(self) -> list[StoredFile]:
        before = self._before
        files = [f for f in self._run.files.values() if before is None or f.updated_at <= before]
        return sorted(files, key=lambda f: f.name)

    def outputArtifacts(self, info: Any, after: str | None = None, first: int | None = None) -> Node:
        return self._artifacts(self._run.outputs, first, after)

    def inputArtifacts(self, info: Any, after: str | None = None, first: int | None = None) -> Node:
        return self._artifacts(self._run.inputs, first, after)

    def _artifacts(self, numbers: Iterable[int], first: int | None, after: str | None) -> Node:
        found = [self._context.store.artifacts[number] for number in numbers]
        shown = [a for a in found if a.state == COMMITTED and self._context.shows(a.committed_at)]
        return page(shown, lambda artifact: ArtifactNode(self._context, artifact), first, after)


def _sampled(items: Sequence[int], samples: int | None) -> Sequence[int]:
    """At most `samples` of the items, evenly, with the first and the last."""
    if samples is None or samples >= len(items):
        return items
    if samples <= 1:
        return items[: max(samples, 0)]
    span = len(items) - 1
    return [items[round(i * span / (samples - 1))] for i in range(samples)]


_LOG_LINE = re.compile(r"(?P<level>ERROR )?(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z?) (?:\[(?P<label>[^\]]*)\] )?")


def _log_line(number: int, line: bytes) -> Node:
    text = line.decode("utf-8", "replace")
    if (row := parse_row(line)) and "content" in row:
        level, time, label, text = row.get("level"), row.get("ts"), row.get("label"), row["content"]
    else:
        found = _LOG_LINE.match(text)
        level = "error" if found and found["level"] else ""
        time, label = (found["time"], found["label"]) if found else (None, None)
        text = text[found.end() :] if found else text
    return {"number": number, "timestamp": time, "level": level or "", "label": label or "", "line": text}


# ---- files -----------------------------------------------------------------------------------------------


def run_file(context: Context, run: Run, file: StoredFile) -> Node:
    url = context.links.blob(file.blob.sha256, file.name)
    upload_url = context.links.run_file(run.key, file.name)
    file_id = global_id("File", "v1", run.key.run_id, run.key.project, run.key.entity, file.name)
    common = _file(context, file_id, file.name, file.blob, url, file.updated_at)
    return {**common, "url": lambda info, upload=False: upload_url if upload else url}


def _file(context: Context, file_id: str, name: str, blob: Blob, url: str, updated_at: float) -> Node:
    md5 = blob.md5 if context.behaviour.file_md5 else None
    return {
        "id": file_id,
        "name": name,
        "displayName": name.rpartition("/")[2],
        "url": url,
        "directUrl": url,
        "sizeBytes": blob.size_bytes,
        "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "updatedAt": timestamp(updated_at),
        "digest": md5,
        "md5": md5,
    }


# ---- artifacts -------------------------------------------------------------------------------------------


def _collections(store: Store, home: ProjectKey) -> list[Collection]:
    return [c for c in store.collections.values() if (c.key.entity, c.key.project) == home]


def collection_node(context: Context, key: CollectionKey) -> CollectionNode | None:
    collection = context.store.collections.get(key)
    return CollectionNode(context, collection) if collection else None


class ArtifactTypeNode:
    """ArtifactType of one project."""

    description = None

    def __init__(self, context: Context, project: Project, name: str) -> None:
        self._context, self._project = context, project
        self.name, self.id = name, global_id("ArtifactType", project.number, name)
        self.createdAt = timestamp(project.created_at)

    def artifactCollection(self, info: Any, name: str) -> CollectionNode | None:
        collection = self._context.store.collections.get(CollectionKey(*self._project.key, name))
        return CollectionNode(self._context, collection) if collection and collection.type == self.name else None

    def artifactCollections(self, info: Any, after: str | None = None, first: int | None = None, **_: Any) -> Node:
        found = [c for c in _collections(self._context.store, self._project.key) if c.type == self.name]
        return page(found, lambda collection: CollectionNode(self._context, collection), first, after)


class CollectionNode:
    """ArtifactSequence or ArtifactPortfolio."""

    state = "READY"
    description = None

    def __init__(self, context: Context, collection: Collection) -> None:
        self._context, self._collection = context, collection
        self.typename = "ArtifactPortfolio" if collection.portfolio else "ArtifactSequence"
        self.id, self.name = collection.id, collection.key.name
        self.createdAt = self.updatedAt = timestamp(collection.created_at)
        self.digestAlgorithm = "MANIFEST_MD5"
        self.tags: Node = {"edges": []}

    @property
    def project(self) -> ProjectNode:
        home = ProjectKey(self._collection.key.entity, self._collection.key.project)
        return ProjectNode(self._context, self._context.store.projects[home])

    @property
    def defaultArtifactType(self) -> ArtifactTypeNode:
        home = ProjectKey(self._collection.key.entity, self._collection.key.project)
        project = self._context.store.projects[home]
        return ArtifactTypeNode(self._context, project, self._collection.type)

    @property
    def latestArtifact(self) -> ArtifactNode | None:
        number = self._collection.aliases.get("latest")
        return ArtifactNode(self._context, self._context.store.artifacts[number]) if number else None

    def aliases(self, info: Any, after: str | None = None, first: int | None = None) -> Node:
        names = sorted(self._collection.aliases)
        return page(names, lambda name: alias_node(self._context, self._collection, name), first, after)

    def artifacts(self, info: Any, after: str | None = None, first: int | None = None, **_: Any) -> Node:
        found = [self._context.store.artifacts[n] for n in reversed(self._collection.versions)]
        shown = [a for a in found if a.state == COMMITTED and self._context.shows(a.committed_at)]
        connection = page(shown, lambda artifact: ArtifactNode(self._context, artifact), first, after)
        for edge in connection["edges"]:
            edge["version"] = f"v{edge['node'].versionIndex}"
        return connection

    def artifactMembership(self, info: Any, aliasName: str | None = None) -> MembershipNode | None:
        artifact = self._version(aliasName or "latest")
        if artifact is None or artifact.state != COMMITTED or not self._context.shows(artifact.committed_at):
            return None
        return MembershipNode(self._context, self._collection, artifact)

    def _version(self, name: str) -> Artifact | None:
        versions = self._collection.versions
        number = self._collection.aliases.get(name)
        if number is None and re.fullmatch(r"v\d+", name) and int(name[1:]) < len(versions):
            number = versions[int(name[1:])]
        return self._context.store.artifacts[number] if number else None


def alias_node(context: Context, collection: Collection, name: str) -> Node:
    return {
        "id": global_id("ArtifactAlias", collection.number, name),
        "alias": name,
        "artifactCollection": CollectionNode(context, collection),
    }


def _aliases(context: Context, collection: Collection, artifact: Artifact) -> list[Node]:
    names = [alias for alias, number in collection.aliases.items() if number == artifact.number]
    return [alias_node(context, collection, name) for name in names]


class MembershipNode:
    """A version within a collection."""

    def __init__(self, context: Context, collection: Collection, artifact: Artifact) -> None:
        self._context = context
        self.id = global_id("ArtifactCollectionMembership", collection.number, artifact.number)
        self.versionIndex = collection.versions.index(artifact.number)
        self.createdAt = timestamp(artifact.committed_at)
        self.aliases = _aliases(context, collection, artifact)
        self.artifactCollection = CollectionNode(context, collection)
        self.artifact = ArtifactNode(context, artifact)

    def files(self, info: Any, **args: Any) -> Node:
        return self.artifact.files(info, **args)


class ArtifactNode:
    """Artifact."""

    digestAlgorithm = "MANIFEST_MD5"
    commitHash = None

    def __init__(self, context: Context, artifact: Artifact) -> None:
        self._context, self._artifact = context, artifact
        self._collection = context.store.collections[artifact.collection]
        self.id, self.state, self.digest = artifact.id, artifact.state, artifact.digest
        self.versionIndex, self.size, self.fileCount = (
            artifact.version,
            artifact.size_bytes,
            len(artifact.entries),
        )
        attributes = artifact.attributes
        self.description, self.metadata = attributes.get("description"), attributes.get("metadata")
        self.historyStep = attributes.get("historyStep")
        self.ttlIsInherited = "ttlDurationSeconds" not in attributes
        self.ttlDurationSeconds = attributes.get("ttlDurationSeconds", TTL_INHERITED)
        self.tags = [{"id": global_id("Tag", tag), "name": tag} for tag in artifact.tags]
        self.createdAt = self.updatedAt = timestamp(artifact.created_at)

    @property
    def artifactSequence(self) -> CollectionNode:
        return CollectionNode(self._context, self._collection)

    @property
    def artifactType(self) -> ArtifactTypeNode:
        return self.artifactSequence.defaultArtifactType

    @property
    def aliases(self) -> list[Node]:
        return _aliases(self._context, self._collection, self._artifact)

    @property
    def createdBy(self) -> Any:
        run = self._context.store.runs.get(self._artifact.created_by) if self._artifact.created_by else None
        return RunNode(self._context, run, late=True) if run else None

    @property
    def usedBy(self) -> Node:
        runs = [run for run in self._context.store.runs.values() if self._artifact.number in run.inputs]
        return page(runs, lambda run: RunNode(self._context, run, late=True), None, None)

    @property
    def currentManifest(self) -> Node | None:
        return manifest_node(self._context, self._artifact) if self._artifact.manifest else None

    def files(
        self,
        info: Any,
        names: Sequence[str] | None = None,
        after: str | None = None,
        first: int | None = None,
    ) -> Node:
        entries = [e for e in self._artifact.entries if e.birth is not None and (not names or e.path in names)]
        return page(entries, self._entry, first, after)

    def filesByManifestEntries(self, info: Any, entries: Sequence[Mapping[str, Any]], **_: Any) -> Node:
        found = [self._by_manifest_entry(entry) for entry in entries]
        return page(found, self._entry, None, None)

    def _by_manifest_entry(self, entry: Mapping[str, Any]) -> ManifestEntry:
        birth_id = entry.get("birthArtifactID")
        birth = artifact_of(self._context.store, birth_id).number if birth_id else self._artifact.number
        return ManifestEntry(entry["name"], entry["digest"], entry.get("size") or 0, birth)

    def _entry(self, entry: ManifestEntry) -> Node | None:
        blob = self._context.store.blob_of(entry.birth, entry.digest)
        if blob is None:
            return None
        url = self._context.links.blob(blob.sha256, entry.path)
        file_id = global_id("File", "artifact", self._artifact.number, entry.path)
        node = _file(self._context, file_id, entry.path, blob, url, self._artifact.committed_at)
        path = storage_path(entry.birth or self._artifact.number, entry.digest)
        return {**node, "displayName": entry.path, "digest": entry.digest, "storagePath": path, "artifact": self}


def storage_path(artifact: int, digest: str) -> str:
    return f"wandb_artifacts/{artifact}/{hex_digest(digest)}"


def manifest_node(context: Context, artifact: Artifact) -> Node:
    """The manifest of a version, with the address that it is uploaded to and, once it is there, read from."""
    name = "wandb_manifest.json"
    blob = artifact.manifest or Blob("", "", 0)
    url = context.links.blob(blob.sha256, name)
    file = _file(context, global_id("File", "manifest", artifact.number), name, blob, url, artifact.created_at)
    upload = {"uploadUrl": context.links.manifest(artifact.number, name), "uploadHeaders": []}
    return {
        "id": global_id("ArtifactManifest", artifact.number),
        "digest": artifact.manifest_digest,
        "file": {**file, **upload},
    }
