"""What a client may do to artifacts: create (PENDING), give files and a manifest, commit, name, link, delete.

A commit is refused while the manifest or any file that it lists is missing, or arrived with other bytes than it was
announced with: what this server calls COMMITTED is whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wandb_spool.syncer.rehearsal.behaviour import Account, Behaviour
from wandb_spool.syncer.rehearsal.blobs import Blob
from wandb_spool.syncer.rehearsal.errors import Refused, not_found, permission_denied
from wandb_spool.syncer.rehearsal.model import (
    COMMITTED,
    DELETED,
    PENDING,
    Artifact,
    Collection,
    CollectionKey,
    RunKey,
    id_parts,
)
from wandb_spool.syncer.rehearsal.store import Store, blob_event

_ATTRIBUTES = ("description", "metadata", "ttlDurationSeconds", "historyStep")


def artifact_of(store: Store, artifact_id: str) -> Artifact:
    """The artifact that a GraphQL id names."""
    parts = id_parts(artifact_id, "Artifact")
    return store.artifact(int(parts[0]) if parts and parts[0].isdigit() else None)


def create(store: Store, behaviour: Behaviour, account: Account, wanted: Mapping[str, Any]) -> Artifact:
    """A new PENDING version, or the one that has this content (or this client's own, asked for again)."""
    if not account.may_write(wanted["entityName"]):
        raise permission_denied()
    run = _run_of(store, wanted)
    collection = _collection(store, wanted)
    known = _known(store, collection, wanted)
    artifact = known or _record_artifact(store, collection, run, wanted)
    _name(store, artifact, [alias["alias"] for alias in wanted.get("aliases") or ()])
    if run and (known is None or known.created_by == run or behaviour.deduplicated_outputs):
        store.record("output", run=run, artifact=artifact.number)
    return artifact


def _run_of(store: Store, wanted: Mapping[str, Any]) -> RunKey | None:
    if not wanted.get("runName"):
        return None
    return store.run(RunKey(wanted["entityName"], wanted["projectName"], wanted["runName"])).key


def _collection(store: Store, wanted: Mapping[str, Any]) -> Collection:
    name = wanted.get("artifactCollectionName") or next(iter(wanted.get("artifactCollectionNames") or ()), None)
    if not name:
        raise Refused(400, "an artifact needs the name of its collection")
    key = CollectionKey(wanted["entityName"], wanted["projectName"], name)
    known = store.collections.get(key)
    if known is None:
        store.record("collection", collection=key, type=wanted["artifactTypeName"], portfolio=False)
    elif known.type != wanted["artifactTypeName"]:
        message = f"artifact {name!r} already exists with type {known.type!r}"
        raise Refused(409, f"{message}; cannot create another with type {wanted['artifactTypeName']!r}")
    return store.collections[key]


def _known(store: Store, collection: Collection, wanted: Mapping[str, Any]) -> Artifact | None:
    for artifact in store.artifacts.values():
        if artifact.collection != collection.key or artifact.state == DELETED:
            continue
        same_client = wanted.get("clientID") and artifact.client_id == wanted["clientID"]
        same_content = wanted.get("enableDigestDeduplication") and artifact.digest == wanted["digest"]
        if same_client or same_content:
            return artifact
    return None


def _record_artifact(store: Store, collection: Collection, run: RunKey | None, wanted: Mapping[str, Any]) -> Artifact:
    store.record(
        "artifact",
        collection=collection.key,
        digest=wanted["digest"],
        run=run,
        client_id=wanted.get("clientID"),
        attributes={name: wanted[name] for name in _ATTRIBUTES if wanted.get(name) is not None},
        tags=[tag["tagName"] for tag in wanted.get("tags") or ()],
    )
    return store.artifacts[len(store.artifacts)]


def _name(store: Store, artifact: Artifact, aliases: Sequence[str]) -> None:
    if artifact.state == PENDING:
        store.record("wanted_aliases", artifact=artifact.number, aliases=list(aliases))
        return
    for alias in aliases:
        store.record("alias", collection=artifact.collection, alias=alias, artifact=artifact.number)


def set_manifest(store: Store, artifact: Artifact, digest: str | None) -> None:
    store.record("manifest", artifact=artifact.number, digest=digest)


def set_manifest_file(store: Store, artifact: Artifact, blob: Blob) -> None:
    if artifact.manifest_digest and blob.md5 != artifact.manifest_digest and blob.md5_hex != artifact.manifest_digest:
        raise Refused(400, "BadDigest: the manifest is not the one that was announced")
    store.record("manifest_file", artifact=artifact.number, blob=blob_event(blob))


def add_file(store: Store, artifact: Artifact, digest: str, blob: Blob) -> None:
    """Bytes for a file that was announced with this MD5 (base64)."""
    if blob.md5 != digest:
        raise Refused(400, "BadDigest: the bytes are not the ones that were announced")
    store.record("artifact_file", artifact=artifact.number, digest=digest, blob=blob_event(blob))


def add_part(store: Store, upload: str, number: int, blob: Blob) -> None:
    store.record("part", upload=upload, part=number, blob=blob_event(blob))


def join_parts(store: Store, artifact: Artifact, digest: str, upload: str, parts: Iterable[Mapping[str, Any]]) -> None:
    """Make the parts of a multipart upload one file, if they are all there and make what was announced."""
    stored = store.parts.get(upload, {})
    numbers = sorted(int(part["partNumber"]) for part in parts)
    if numbers != list(range(1, len(numbers) + 1)) or not stored.keys() >= set(numbers):
        raise Refused(400, "InvalidPart: parts of the upload are missing")
    add_file(store, artifact, digest, store.blobs.join(stored[number].sha256 for number in numbers))


def birth_of(store: Store, artifact: Artifact, name: str, digest: str) -> int | None:
    """The committed version of the same artifact that already brought this file."""
    return store.collections[artifact.collection].files.get((name, digest))


def commit(store: Store, artifact: Artifact) -> None:
    """PENDING → COMMITTED, when everything is there; again: nothing."""
    if artifact.state == COMMITTED:
        return
    if artifact.state == DELETED:
        raise not_found("artifact")
    entries = [_entry(store, artifact, path, entry) for path, entry in _contents(store, artifact).items()]
    store.record("committed", artifact=artifact.number, entries=entries)


def _contents(store: Store, artifact: Artifact) -> Mapping[str, Any]:
    if artifact.manifest is None:
        raise Refused(400, "the artifact has no manifest yet")
    manifest = json.loads(store.blobs.path(artifact.manifest.sha256).read_bytes())
    contents: Mapping[str, Any] = manifest["contents"]
    return contents


def _entry(store: Store, artifact: Artifact, path: str, entry: Mapping[str, Any]) -> list[Any]:
    if entry.get("ref"):
        return [path, entry["digest"], entry.get("size") or 0, None]
    birth_id = entry.get("birthArtifactID")
    birth = artifact_of(store, birth_id).number if birth_id else artifact.number
    blob = store.blob_of(birth, entry["digest"])
    if blob is None:
        raise Refused(400, f"the artifact's file {path!r} was not uploaded")
    return [path, entry["digest"], blob.size_bytes, birth]


def update(store: Store, artifact: Artifact, change: Mapping[str, Any]) -> None:
    added = [tag["tagName"] for tag in change.get("tagsToAdd") or ()]
    removed = {tag["tagName"] for tag in change.get("tagsToDelete") or ()}
    tags = [tag for tag in dict.fromkeys([*artifact.tags, *added]) if tag not in removed]
    attributes = {name: change[name] for name in _ATTRIBUTES if change.get(name) is not None}
    store.record("artifact_updated", artifact=artifact.number, attributes=attributes, tags=tags)


def use(store: Store, artifact: Artifact, run: RunKey) -> None:
    store.record("input", run=store.run(run).key, artifact=artifact.number)


def add_aliases(store: Store, artifact: Artifact, aliases: Iterable[Mapping[str, Any]]) -> None:
    for alias in aliases:
        collection = _named_collection(artifact, alias)
        store.record("alias", collection=collection, alias=alias["alias"], artifact=artifact.number)


def delete_aliases(store: Store, artifact: Artifact, aliases: Iterable[Mapping[str, Any]]) -> None:
    for alias in aliases:
        store.record("alias_deleted", collection=_named_collection(artifact, alias), alias=alias["alias"])


def _named_collection(artifact: Artifact, alias: Mapping[str, Any]) -> CollectionKey:
    home = artifact.collection
    entity, project = alias.get("entityName") or home.entity, alias.get("projectName") or home.project
    return CollectionKey(entity, project, alias["artifactCollectionName"])


def delete(store: Store, artifact: Artifact) -> None:
    store.record("artifact_deleted", artifact=artifact.number)


def link(store: Store, artifact: Artifact, key: CollectionKey, aliases: Sequence[str]) -> Collection:
    """Show a version in a portfolio too."""
    if key not in store.collections:
        kind = store.collections[artifact.collection].type
        store.record("collection", collection=key, type=kind, portfolio=True)
    store.record("linked", collection=key, artifact=artifact.number)
    for alias in ["latest", *aliases]:
        store.record("alias", collection=key, alias=alias, artifact=artifact.number)
    return store.collections[key]


def hex_digest(digest: str) -> str:
    """A base64 digest as it stands in an address."""
    return base64.b64decode(digest).hex()


def base64_digest(digest_hex: str) -> str:
    return base64.b64encode(bytes.fromhex(digest_hex)).decode()
