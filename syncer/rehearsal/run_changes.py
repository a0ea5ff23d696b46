"""What a client may do to runs: create and update them, stream to them, give them files, delete them.

Every function refuses before it stores anything (`Refused`), or the change is durable when it returns.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from wandb_spool.syncer.rehearsal.behaviour import Account, Behaviour, StreamTail
from wandb_spool.syncer.rehearsal.blobs import Blob
from wandb_spool.syncer.rehearsal.errors import Refused, deleted_run, not_found, permission_denied
from wandb_spool.syncer.rehearsal.model import Run, RunKey, id_parts
from wandb_spool.syncer.rehearsal.store import SUMMARY, Store, blob_event

# UpsertBucket's input → the name under which the run shows it.
_ATTRIBUTES = {
    "groupName": "group",
    "description": "description",
    "displayName": "displayName",
    "notes": "notes",
    "config": "config",
    "commit": "commit",
    "host": "host",
    "jobProgram": "jobProgram",
    "jobRepo": "jobRepo",
    "jobType": "jobType",
    "sweep": "sweepName",
    "tags": "tags",
    "summaryMetrics": "summaryMetrics",
}


def run_key_of(storage_id: str) -> RunKey:
    """The run that a GraphQL id names."""
    parts = id_parts(storage_id, "Run")
    if parts is None or len(parts) != 4:
        raise not_found(f"run with id {storage_id!r}")
    return RunKey(entity=parts[3], project=parts[2], run_id=parts[1])


def upsert_run(store: Store, account: Account, change: Mapping[str, Any]) -> tuple[Run, bool]:
    """Create or update a run; tells whether it was created. 409 for a run that was deleted."""
    key = _target(account, change)
    if not account.may_write(key.entity):
        raise permission_denied()
    known = store.runs.get(key)
    if known is not None and known.deleted:
        raise deleted_run(str(key))
    attributes = {shown: change[given] for given, shown in _ATTRIBUTES.items() if change.get(given) is not None}
    _require_json_objects(attributes)
    if known is None:
        attributes.setdefault("displayName", f"rehearsal-{len(store.runs) + 1}")
    store.record("run", run=key, attributes=attributes, username=account.entity)
    run = store.runs[key]
    if state := change.get("state"):
        store.record("state", run=key, state=state, exit_code=run.exit_code)
    return run, known is None


def _target(account: Account, change: Mapping[str, Any]) -> RunKey:
    if change.get("id"):
        return run_key_of(change["id"])
    return RunKey(
        change.get("entityName") or account.entity,
        change.get("modelName") or "uncategorized",
        change.get("name") or secrets.token_hex(4),
    )


def _require_json_objects(attributes: Mapping[str, Any]) -> None:
    for name in ("config", "summaryMetrics"):
        if name in attributes:
            try:
                valid = isinstance(json.loads(attributes[name]), dict)
            except ValueError:
                valid = False
            if not valid:
                raise Refused(400, f"{name} is not a JSON object")


def delete_run(store: Store, key: RunKey) -> None:
    store.run(key)
    store.record("run_deleted", run=key)


def stream(store: Store, behaviour: Behaviour, key: RunKey, body: Mapping[str, Any]) -> dict[str, Any]:
    """One file_stream request: lines by offset, then state; returns the answer."""
    run = store.run(key)
    chunks = _chunks(body.get("files", {}))
    for name, offset, content in chunks:
        cut = behaviour.stream_tail is StreamTail.CUT and name != SUMMARY
        store.stream(key, name).put(offset, content, now=store.clock(), cut_tail=cut)
        if name == SUMMARY and "summaryMetrics" in run.attributes:
            store.record("summary_streamed", run=key)
    _change_state(store, run, body)
    run.heartbeat_at = store.clock()
    answer: dict[str, Any] = {"exitcode": None, "limits": {}}
    return {**answer, "stopped": True} if run.stop_requested else answer


def _chunks(files: Any) -> list[tuple[str, int, Sequence[str]]]:
    """The chunks of a request, checked as a whole before any is stored."""
    try:
        chunks = [(name, chunk.get("offset", 0), chunk["content"]) for name, chunk in files.items()]
        valid = all(
            isinstance(offset, int) and offset >= 0 and isinstance(content, list) and set(map(type, content)) <= {str}
            for _, offset, content in chunks
        )
    except (AttributeError, KeyError, TypeError):
        valid = False
    if not valid:
        raise Refused(400, "files must map names to {offset, content: [lines]}")
    return [chunk for chunk in chunks if chunk[2]]


def _change_state(store: Store, run: Run, body: Mapping[str, Any]) -> None:
    state, exit_code = run.state, run.exit_code
    if body.get("complete"):
        exit_code = body.get("exitcode") or 0
        preempted = exit_code != 0 and run.state == "preempting"
        state = "preempted" if preempted else "finished" if exit_code == 0 else "failed"
    elif body.get("preempting"):
        state = "preempting"
    elif body.get("files") or not body:
        state, exit_code = "preempting" if state == "preempting" else "running", None
    if (state, exit_code) != (run.state, run.exit_code):
        store.record("state", run=run.key, state=state, exit_code=exit_code)


def add_file(store: Store, key: RunKey, name: str, blob: Blob) -> None:
    store.run(key)
    store.record("file", run=key, name=name, blob=blob_event(blob))


def delete_file(store: Store, file_id: str) -> None:
    parts = id_parts(file_id, "File")
    if parts is None or len(parts) < 5:
        raise not_found(f"file with id {file_id!r}")
    key = run_key_of_parts(parts)
    store.run(key)
    store.record("file_deleted", run=key, name=":".join(parts[4:]))


def run_key_of_parts(parts: Sequence[str]) -> RunKey:
    """The run within the id of one of its files: v1, run, project, entity, name."""
    return RunKey(entity=parts[3], project=parts[2], run_id=parts[1])


def raise_alert(store: Store, key: RunKey, title: str, text: str, severity: str) -> None:
    store.run(key)
    store.record("alert", run=key, title=title, text=text, severity=severity)
