"""Everything the rehearsal server was told, durable before it is acknowledged.

A directory holds the key, the journal (runs, files, artifacts, as events), the lines of file_stream and the blobs.
Every change is appended to the journal first and applied to memory by the same function that replays the journal at
the next start, so what was acknowledged survives the death of the process. Use a store under its `lock`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wandb_spool.syncer.rehearsal.blobs import Blob, Blobs
from wandb_spool.syncer.rehearsal.errors import deleted_run, not_found
from wandb_spool.syncer.rehearsal.journal import Journal
from wandb_spool.syncer.rehearsal.lines import History, LineFile
from wandb_spool.syncer.rehearsal.model import (
    COMMITTED,
    DELETED,
    Alert,
    Artifact,
    Collection,
    CollectionKey,
    ManifestEntry,
    Project,
    ProjectKey,
    Run,
    RunKey,
    StoredFile,
)

HISTORY, EVENTS, SUMMARY, CONSOLE = (
    "wandb-history.jsonl",
    "wandb-events.jsonl",
    "wandb-summary.json",
    "output.log",
)
Event = Mapping[str, Any]


class Store:
    """The state of the service, and the only way to change it."""

    def __init__(self, root: Path, *, fsync: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.root, self.fsync, self.clock = root, fsync, clock
        self.lock = threading.RLock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.projects: dict[ProjectKey, Project] = {}
        self.runs: dict[RunKey, Run] = {}
        self.collections: dict[CollectionKey, Collection] = {}
        self.artifacts: dict[int, Artifact] = {}
        self.parts: dict[str, dict[int, Blob]] = {}
        self.alerts: list[Alert] = []
        self._streams: dict[tuple[RunKey, str], LineFile] = {}
        self._journal = Journal(root / "journal.jsonl", fsync=fsync)
        self.blobs = Blobs(root / "blobs", fsync=fsync)
        self.key = _lasting_secret(root / "key")
        for event in self._journal.replay():
            self._apply(event)

    def close(self) -> None:
        self._journal.close()

    def record(self, op: str, **event: Any) -> Event:
        """Make an event lasting, then true."""
        complete = {"op": op, "time": self.clock(), **event}
        self._journal.append(complete)
        self._apply(complete)
        return complete

    # ---- look-ups --------------------------------------------------------------------------------------

    def run(self, key: RunKey) -> Run:
        """The run, or a refusal: 404 for an unknown one, 409 for one that was deleted."""
        run = self.runs.get(key)
        if run is None:
            raise not_found(f"run {key}")
        if run.deleted:
            raise deleted_run(str(key))
        return run

    def stream(self, key: RunKey, name: str) -> LineFile:
        """The lines of one file_stream file of a run (empty when nothing was sent)."""
        found = self._streams.get((key, name))
        if found is None:
            path = self.root / "streams" / Path(*map(file_name, key)) / file_name(name)
            kind = History if name == HISTORY else LineFile
            found = self._streams[key, name] = kind(path, fsync=self.fsync)
        return found

    def history(self, key: RunKey) -> History:
        stream = self.stream(key, HISTORY)
        assert isinstance(stream, History)
        return stream

    def summary(self, key: RunKey) -> str:
        """The summary as JSON text: the last line of its stream counts, or what UpsertBucket set since."""
        run = self.runs[key]
        tail = self.stream(key, SUMMARY).tail(1)
        return str(run.attributes.get("summaryMetrics") or (tail[0] if tail else "{}"))

    def artifact(self, number: int | None) -> Artifact:
        found = self.artifacts.get(number) if number is not None else None
        if found is None:
            raise not_found("artifact")
        return found

    def blob_of(self, birth: int | None, digest: str) -> Blob | None:
        """The bytes that an artifact's upload brought under this digest."""
        artifact = self.artifacts.get(birth) if birth is not None else None
        return artifact.uploads.get(digest) if artifact else None

    # ---- the journal's events, live and replayed ---------------------------------------------------------

    def _apply(self, event: Event) -> None:
        getattr(self, f"_on_{event['op']}")(event)

    def _on_project(self, event: Event) -> None:
        key = ProjectKey(event["entity"], event["project"])
        if key not in self.projects:
            self.projects[key] = Project(key, len(self.projects) + 1, event["time"])

    def _on_run(self, event: Event) -> None:
        key = RunKey(*event["run"])
        run = self.runs.get(key)
        if run is None:
            self._on_project({"entity": key.entity, "project": key.project, "time": event["time"]})
            run = self.runs[key] = Run(key, len(self.runs) + 1, event["time"], event["username"])
            self.projects[key.home].runs.append(key)
        run.attributes.update(event["attributes"])
        run.heartbeat_at = event["time"]

    def _on_state(self, event: Event) -> None:
        run = self.runs[RunKey(*event["run"])]
        run.state, run.exit_code = event["state"], event["exit_code"]

    def _on_summary_streamed(self, event: Event) -> None:
        self.runs[RunKey(*event["run"])].attributes.pop("summaryMetrics", None)

    def _on_stop(self, event: Event) -> None:
        self.runs[RunKey(*event["run"])].stop_requested = True

    def _on_run_deleted(self, event: Event) -> None:
        key = RunKey(*event["run"])
        self.runs[key].deleted = True
        self.projects[key.home].runs.remove(key)

    def _on_file(self, event: Event) -> None:
        files = self.runs[RunKey(*event["run"])].files
        uploads = files[event["name"]].uploads + 1 if event["name"] in files else 1
        files[event["name"]] = StoredFile(event["name"], Blob(**event["blob"]), event["time"], uploads)

    def _on_file_deleted(self, event: Event) -> None:
        self.runs[RunKey(*event["run"])].files.pop(event["name"], None)

    def _on_alert(self, event: Event) -> None:
        texts = event["title"], event["text"], event["severity"]
        self.alerts.append(Alert(RunKey(*event["run"]), *texts, event["time"]))

    def _on_collection(self, event: Event) -> None:
        key = CollectionKey(*event["collection"])
        self._on_project({"entity": key.entity, "project": key.project, "time": event["time"]})
        number = len(self.collections) + 1
        self.collections[key] = Collection(key, number, event["type"], event["time"], event["portfolio"])

    def _on_artifact(self, event: Event) -> None:
        number = len(self.artifacts) + 1
        self.artifacts[number] = Artifact(
            number,
            CollectionKey(*event["collection"]),
            event["digest"],
            event["time"],
            created_by=RunKey(*event["run"]) if event["run"] else None,
            client_id=event["client_id"],
            attributes=dict(event["attributes"]),
            tags=list(event["tags"]),
        )

    def _on_artifact_updated(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        artifact.attributes.update(event["attributes"])
        artifact.tags = list(event["tags"])

    def _on_output(self, event: Event) -> None:
        outputs = self.runs[RunKey(*event["run"])].outputs
        if event["artifact"] not in outputs:
            outputs.append(event["artifact"])

    def _on_input(self, event: Event) -> None:
        inputs = self.runs[RunKey(*event["run"])].inputs
        if event["artifact"] not in inputs:
            inputs.append(event["artifact"])

    def _on_wanted_aliases(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        artifact.wanted_aliases += [a for a in event["aliases"] if a not in artifact.wanted_aliases]

    def _on_artifact_file(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        artifact.uploads[event["digest"]] = Blob(**event["blob"])

    def _on_part(self, event: Event) -> None:
        self.parts.setdefault(event["upload"], {})[event["part"]] = Blob(**event["blob"])

    def _on_manifest(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        artifact.manifest_digest = event["digest"] or artifact.manifest_digest

    def _on_manifest_file(self, event: Event) -> None:
        self.artifacts[event["artifact"]].manifest = Blob(**event["blob"])

    def _on_committed(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        collection = self.collections[artifact.collection]
        artifact.entries = [ManifestEntry(*entry) for entry in event["entries"]]
        artifact.state, artifact.committed_at = COMMITTED, event["time"]
        artifact.version = len(collection.versions)
        collection.versions.append(artifact.number)
        for alias in ["latest", *artifact.wanted_aliases]:
            collection.aliases[alias] = artifact.number
        for entry in artifact.entries:
            if entry.birth is not None:
                collection.files[entry.path, entry.digest] = entry.birth

    def _on_alias(self, event: Event) -> None:
        self.collections[CollectionKey(*event["collection"])].aliases[event["alias"]] = event["artifact"]

    def _on_alias_deleted(self, event: Event) -> None:
        self.collections[CollectionKey(*event["collection"])].aliases.pop(event["alias"], None)

    def _on_linked(self, event: Event) -> None:
        versions = self.collections[CollectionKey(*event["collection"])].versions
        if event["artifact"] not in versions:
            versions.append(event["artifact"])

    def _on_artifact_deleted(self, event: Event) -> None:
        artifact = self.artifacts[event["artifact"]]
        artifact.state = DELETED
        aliases = self.collections[artifact.collection].aliases
        for alias in [alias for alias, number in aliases.items() if number == artifact.number]:
            del aliases[alias]


def blob_event(blob: Blob) -> dict[str, Any]:
    return {"sha256": blob.sha256, "md5": blob.md5, "size_bytes": blob.size_bytes}


def file_name(text: str) -> str:
    """A name for one path component that no text can leave the directory with."""
    return quote(text, safe=" ").replace(".", "%2E") or "%"


def _lasting_secret(path: Path) -> str:
    """The key of this data directory: made once, readable by its owner only. The journal's lock is held."""
    if not path.exists():
        draft = path.with_name("key.new")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(20) + "\n")
        draft.replace(path)
    return path.read_text().strip()
