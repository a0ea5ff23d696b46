"""The GraphQL side: the schema of `schema.graphql`, its root fields, and the execution of a request.

An operation or field that the schema lacks is answered with graphql-core's own error and HTTP 400, a refusal with
its status (401, 403, 404, 409) and its sentence, as W&B does. Documents are parsed and validated once and kept.
"""

from __future__ import annotations

import functools
import secrets
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    build_schema,
    execute_sync,
    parse,
    validate,
)
from graphql.type import is_abstract_type

from wandb_spool.syncer.rehearsal import artifact_changes, run_changes
from wandb_spool.syncer.rehearsal.errors import Refused, permission_denied
from wandb_spool.syncer.rehearsal.model import COMMITTED, Artifact, CollectionKey, ProjectKey, RunKey, global_id
from wandb_spool.syncer.rehearsal.nodes import (
    ArtifactNode,
    CollectionNode,
    Context,
    MembershipNode,
    Node,
    ProjectNode,
    RunNode,
    entity_node,
    manifest_node,
    page,
    project_node,
    storage_path,
    user,
)

FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "MARK_RUN_FILES_UPLOADED",
)


@dataclass(frozen=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    body: Mapping[str, Any]


@functools.cache
def schema() -> GraphQLSchema:
    built = build_schema(Path(__file__).with_name("schema.graphql").read_text())
    for kind in built.type_map.values():
        if is_abstract_type(kind):
            kind.resolve_type = lambda value, info, abstract: value.typename
    return built


@functools.lru_cache(maxsize=512)
def _parsed(query: str) -> DocumentNode:
    return parse(query)


@functools.lru_cache(maxsize=512)
def _problems(query: str) -> tuple[GraphQLError, ...]:
    return tuple(validate(schema(), _parsed(query)))


def operation_name(query: str) -> str:
    """The name of the (first) operation of a document; empty when it has none or can't be parsed."""
    try:
        definitions = _parsed(query).definitions
    except GraphQLError:
        return ""
    names = [d.name.value for d in definitions if isinstance(d, OperationDefinitionNode) and d.name]
    return names[0] if names else ""


def answer(context: Context, query: str, variables: Mapping[str, Any] | None, operation: str | None) -> Answer:
    """Execute one request."""
    try:
        problems = _problems(query)
    except GraphQLError as error:
        problems = (error,)
    if problems:
        return Answer(400, {"errors": [{**problem.formatted, "message": _told(problem)} for problem in problems]})
    result = execute_sync(
        schema(),
        _parsed(query),
        root_value=_ROOTS,
        context_value=context,
        variable_values=dict(variables or {}),
        operation_name=operation or None,
    )
    if not result.errors:
        return Answer(200, {"data": result.data})
    errors = [error.formatted for error in result.errors]
    return Answer(_status(result.errors), {"errors": errors, "data": result.data})


_NOT_OFFERED = {"rewindRun": "rewind a run (`resume_from`)", "upsertSweep": "run sweeps", "allViews": "keep reports"}


def _told(problem: GraphQLError) -> str:
    """What a person reads who tries what a stand-in does not do."""
    missing = (what for field, what in _NOT_OFFERED.items() if f"'{field}'" in problem.message)
    return next((f"the rehearsal server does not {what}" for what in missing), problem.message)


def _status(errors: list[GraphQLError]) -> int:
    """The status of the first refusal; 500 for a mistake of this server; 400 for what could not be executed."""
    originals = [error.original_error for error in errors]
    for mistake in (o for o in originals if o is not None and not isinstance(o, (Refused, GraphQLError))):
        traceback.print_exception(type(mistake), mistake, mistake.__traceback__)
        return 500
    return next((o.status for o in originals if isinstance(o, Refused)), 400)


# ---- queries -------------------------------------------------------------------------------------------


def _viewer(info: Any) -> Node:
    return user(info.context.account)


def _server_info(info: Any) -> Node:
    features = [*FEATURES, "FILESTREAM_GZIP"] if info.context.behaviour.gzip else FEATURES
    return {
        "features": [{"name": name, "isEnabled": True} for name in features],
        "cliVersionInfo": "{}",
        "latestLocalVersionInfo": None,
    }


def _entity(info: Any, name: str | None = None) -> Node:
    return entity_node(name or info.context.account.entity)


def _project(info: Any, name: str | None = None, entityName: str | None = None) -> ProjectNode | None:
    return project_node(info.context, entityName, name)


def _models(
    info: Any, entityName: str | None = None, after: str | None = None, first: int | None = None, **_: Any
) -> Node:
    context: Context = info.context
    entity = entityName or context.account.entity
    found = [p for key, p in context.store.projects.items() if key.entity == entity]
    return page(found if context.account.may_write(entity) else [], lambda p: ProjectNode(context, p), first, after)


def _artifact(info: Any, id: str) -> ArtifactNode | None:
    try:
        return ArtifactNode(info.context, artifact_changes.artifact_of(info.context.store, id))
    except Refused:
        return None


def _artifact_collection(info: Any, id: str) -> CollectionNode | None:
    found = [c for c in info.context.store.collections.values() if c.id == id]
    return CollectionNode(info.context, found[0]) if found else None


def _client_id_mapping(info: Any, clientID: str) -> Node | None:
    found = [a for a in info.context.store.artifacts.values() if a.client_id == clientID]
    return {"serverID": found[0].id} if found else None


# ---- mutations on runs ---------------------------------------------------------------------------------


def _run_key(context: Context, input: Mapping[str, Any]) -> RunKey:
    entity = input["entityName"] or context.account.entity
    return _allowed(context, RunKey(entity, input["projectName"], input["runName"]))


def _allowed(context: Context, key: RunKey) -> RunKey:
    if not context.account.may_write(key.entity):
        raise permission_denied()
    return key


def _upsert_bucket(info: Any, input: Mapping[str, Any]) -> Node:
    context: Context = info.context
    run, inserted = run_changes.upsert_run(context.store, context.account, input)
    return {"bucket": RunNode(context, run, late=False), "inserted": inserted}


def _delete_run(info: Any, input: Mapping[str, Any]) -> Node:
    key = _allowed(info.context, run_changes.run_key_of(input["id"]))
    run_changes.delete_run(info.context.store, key)
    return {}


def _update_run_state(info: Any, input: Mapping[str, Any]) -> Node:
    run = info.context.store.run(_allowed(info.context, run_changes.run_key_of(input["id"])))
    info.context.store.record("state", run=run.key, state=input["state"], exit_code=run.exit_code)
    return {"success": True}


def _stop_run(info: Any, input: Mapping[str, Any]) -> Node:
    run = info.context.store.run(_allowed(info.context, run_changes.run_key_of(input["id"])))
    info.context.store.record("stop", run=run.key)
    return {"success": True}


def _upsert_model(info: Any, input: Mapping[str, Any]) -> Node:
    context: Context = info.context
    key = ProjectKey(input.get("entityName") or context.account.entity, input.get("name") or "uncategorized")
    if not context.account.may_write(key.entity):
        raise permission_denied()
    inserted = key not in context.store.projects
    context.store.record("project", entity=key.entity, project=key.project)
    node = ProjectNode(context, context.store.projects[key])
    return {"project": node, "model": node, "inserted": inserted}


def _create_run_files(info: Any, input: Mapping[str, Any]) -> Node:
    context: Context = info.context
    run = context.store.run(_run_key(context, input))
    files = [{"name": name, "uploadUrl": context.links.run_file(run.key, name)} for name in input["files"]]
    return {"runID": run.id, "uploadHeaders": [], "files": files}


def _mark_run_files_uploaded(info: Any, input: Mapping[str, Any]) -> Node:
    run = info.context.store.run(_run_key(info.context, input))
    return {"success": run.files.keys() >= set(input["files"])}


def _delete_files(info: Any, input: Mapping[str, Any]) -> Node:
    for file_id in input["files"]:
        run_changes.delete_file(info.context.store, file_id)
    return {"success": True}


def _alert(info: Any, input: Mapping[str, Any]) -> Node:
    key = _run_key(info.context, input)
    severity = input.get("severity") or "INFO"
    run_changes.raise_alert(info.context.store, key, input["title"], input["text"], severity)
    return {"success": True}


# ---- mutations on artifacts ------------------------------------------------------------------------------


def _writable(context: Context, artifact_id: str) -> Artifact:
    artifact = artifact_changes.artifact_of(context.store, artifact_id)
    if not context.account.may_write(artifact.collection.entity):
        raise permission_denied()
    return artifact


def _create_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    context: Context = info.context
    # The log of an offline run that names no entity makes `wandb sync` send an empty one here.
    wanted = {**input, "entityName": input["entityName"] or context.account.entity}
    artifact = artifact_changes.create(context.store, context.behaviour, context.account, wanted)
    return {"artifact": ArtifactNode(context, artifact)}


def _create_artifact_manifest(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    artifact_changes.set_manifest(info.context.store, artifact, input.get("digest"))
    return {"artifactManifest": manifest_node(info.context, artifact)}


def _update_artifact_manifest(info: Any, input: Mapping[str, Any]) -> Node:
    manifest_id = input["artifactManifestID"]
    found = [a for a in info.context.store.artifacts.values() if global_id("ArtifactManifest", a.number) == manifest_id]
    if not found:
        raise Refused(404, "could not find the artifact's manifest")
    artifact = _writable(info.context, found[0].id)
    artifact_changes.set_manifest(info.context.store, artifact, input.get("digest"))
    return {"artifactManifest": manifest_node(info.context, artifact)}


def _create_artifact_files(info: Any, input: Mapping[str, Any]) -> Node:
    files = [_artifact_file(info.context, spec) for spec in input["artifactFiles"]]
    return {"files": page(files, lambda node: node, None, None)}


def _artifact_file(context: Context, spec: Mapping[str, Any]) -> Node:
    """Where to upload one file to; no address for bytes that are there already."""
    artifact = _writable(context, spec["artifactID"])
    name, digest = spec["name"], spec["md5"]
    birth = artifact_changes.birth_of(context.store, artifact, name, digest)
    known = birth is not None or digest in artifact.uploads
    owner = context.store.artifacts[birth] if birth is not None else artifact
    parts = None if known else _multipart(context, name, spec.get("uploadPartsInput"))
    address = context.links.artifact_file(artifact.number, artifact_changes.hex_digest(digest), name)
    return {
        "id": global_id("File", "artifact", owner.number, name),
        "name": name,
        "displayName": name,
        "storagePath": storage_path(owner.number, digest),
        "uploadUrl": None if known else address,
        "uploadHeaders": [f"Content-MD5:{digest}"],
        "uploadMultipartUrls": parts,
        "artifact": ArtifactNode(context, owner),
        "directUrl": address,
        "sizeBytes": 0,
    }


def _multipart(context: Context, name: str, parts: list[Mapping[str, Any]] | None) -> Node | None:
    if not parts:
        return None
    upload = secrets.token_hex(8)
    urls = [
        {"partNumber": part["partNumber"], "uploadUrl": context.links.part(upload, part["partNumber"], name)}
        for part in parts
    ]
    return {"uploadID": upload, "uploadUrlParts": urls}


def _complete_multipart(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    digest = artifact_changes.base64_digest(input["storagePath"].rpartition("/")[2])
    if input["completeMultipartAction"] == "Complete":
        parts = input["completedParts"]
        artifact_changes.join_parts(info.context.store, artifact, digest, input["uploadID"], parts)
    return {"digest": digest}


def _artifact_payload(context: Context, artifact: Artifact) -> Node:
    return {"artifact": ArtifactNode(context, artifact)}


def _commit_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    artifact_changes.commit(info.context.store, artifact)
    return _artifact_payload(info.context, artifact)


def _update_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    artifact_changes.update(info.context.store, artifact, input)
    return _artifact_payload(info.context, artifact)


def _delete_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    artifact_changes.delete(info.context.store, artifact)
    return _artifact_payload(info.context, artifact)


def _use_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = artifact_changes.artifact_of(info.context.store, input["artifactID"])
    artifact_changes.use(info.context.store, artifact, _run_key(info.context, input))
    return _artifact_payload(info.context, artifact)


def _add_aliases(info: Any, input: Mapping[str, Any]) -> Node:
    artifact_changes.add_aliases(info.context.store, _writable(info.context, input["artifactID"]), input["aliases"])
    return {"success": True}


def _delete_aliases(info: Any, input: Mapping[str, Any]) -> Node:
    artifact = _writable(info.context, input["artifactID"])
    artifact_changes.delete_aliases(info.context.store, artifact, input["aliases"])
    return {"success": True}


def _link_artifact(info: Any, input: Mapping[str, Any]) -> Node:
    context: Context = info.context
    artifact = _linked_artifact(context, input)
    name = input.get("artifactPortfolioName")
    if not name or artifact.state != COMMITTED:
        raise Refused(400, "only a committed version can be linked, and only to a named collection")
    key = CollectionKey(
        input.get("entityName") or context.account.entity, input.get("projectName") or "uncategorized", name
    )
    _allowed(context, RunKey(key.entity, key.project, ""))
    aliases = [alias["alias"] for alias in input.get("aliases") or ()]
    collection = artifact_changes.link(context.store, artifact, key, aliases)
    member = MembershipNode(context, collection, artifact)
    return {"versionIndex": member.versionIndex, "artifactMembership": member}


def _linked_artifact(context: Context, input: Mapping[str, Any]) -> Artifact:
    if input.get("artifactID"):
        return artifact_changes.artifact_of(context.store, input["artifactID"])
    found = [a for a in context.store.artifacts.values() if a.client_id == input.get("clientID")]
    if not found:
        raise Refused(404, "could not find artifact")
    return found[0]


_ROOTS: Mapping[str, Callable[..., Any] | None] = {
    "viewer": _viewer,
    "serverInfo": _server_info,
    "entity": _entity,
    "organization": None,
    "project": _project,
    "model": _project,
    "models": _models,
    "users": lambda info, query=None: {"edges": []},
    "artifact": _artifact,
    "artifactCollection": _artifact_collection,
    "clientIDMapping": _client_id_mapping,
    "upsertBucket": _upsert_bucket,
    "deleteRun": _delete_run,
    "updateRunState": _update_run_state,
    "stopRun": _stop_run,
    "upsertModel": _upsert_model,
    "createRunFiles": _create_run_files,
    "markRunFilesUploaded": _mark_run_files_uploaded,
    "deleteFiles": _delete_files,
    "notifyScriptableRunAlert": _alert,
    "createArtifact": _create_artifact,
    "createArtifactManifest": _create_artifact_manifest,
    "updateArtifactManifest": _update_artifact_manifest,
    "createArtifactFiles": _create_artifact_files,
    "completeMultipartUploadArtifact": _complete_multipart,
    "commitArtifact": _commit_artifact,
    "updateArtifact": _update_artifact,
    "deleteArtifact": _delete_artifact,
    "useArtifact": _use_artifact,
    "addAliases": _add_aliases,
    "deleteAliases": _delete_aliases,
    "linkArtifact": _link_artifact,
}
