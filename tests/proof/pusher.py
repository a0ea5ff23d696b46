"""A thin pusher in the place of `wandb sync`, for attacks that need thousands of deliveries.

It stands at the one seam where a foreign program runs (`deliver.push`), and sends what a push view holds to the real
rehearsal server over real HTTP, with the real client's operations and offsets. Nothing of ours is replaced: planning,
leases, views, read-back, receipts and moves are the product's own, and the product never believes a pusher anyway. What
`wandb sync` itself does is proven with the real one by the other attacks and the delivery tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from wandb_spool.spool.configuration import Destination, Limits
from wandb_spool.spool.log import facts, rows
from wandb_spool.syncer.push import PushResult
from wandb_spool.syncer.view import View

_UPSERT = """
mutation UpsertBucket($name: String, $entity: String, $project: String, $config: JSONString, $shown: String) {
  upsertBucket(input: {
    name: $name, entityName: $entity, modelName: $project, config: $config, displayName: $shown
  }) {
    bucket { id name historyLineCount }
  }
}"""

_FILES = """
mutation CreateRunFiles($entity: String!, $project: String!, $run: String!, $files: [String!]!) {
  createRunFiles(input: {entityName: $entity, projectName: $project, runName: $run, files: $files}) {
    runID
    uploadHeaders
    files { name uploadUrl }
  }
}"""


@dataclass
class Pusher:
    """Pushes, more or less. `mood` says how the next push goes."""

    mood: str = "well"
    pushes: int = 0

    def __call__(
        self,
        views: Sequence[View],
        destination: Destination,
        base_url: str,
        key: str,
        scratch: Path,
        environ: Mapping[str, str],
        *,
        limits: Limits,
        keep_going: Callable[[], bool] = lambda: True,
        **more: object,
    ) -> PushResult:
        """The signature of `push.push`."""
        self.pushes += 1
        marked = set()
        for view in views:
            if self.mood != "lies":
                _send(view, base_url, key, half=self.mood == "half", twice=self.mood == "twice")
            marked.add(view.log)
        keep_going()
        return PushResult(0, False, False, 0.0, "Finished syncing", frozenset(marked))


def _send(view: View, base_url: str, key: str, *, half: bool, twice: bool) -> None:
    found = facts(view.log)
    with requests.Session() as session:
        session.auth = ("api", key)
        config = json.dumps({name: {"value": value} for name, value in found.config.items()})
        run = {"entity": found.entity, "project": found.project}
        wanted = {**run, "name": found.run_id, "config": config, "shown": found.display_name or None}
        created = _ask(session, base_url, "UpsertBucket", _UPSERT, wanted)
        held = created["upsertBucket"]["bucket"]["historyLineCount"] or 0
        if not half:
            _upload(view.directory / "files", session, base_url, {**run, "run": found.run_id})
        lines = [json.dumps({**row.values, "_step": row.step}) for row in rows(view.log)]
        lines = lines[: len(lines) // 2] if half else lines
        stream: dict[str, Any] = {"files": {"wandb-history.jsonl": {"offset": held, "content": lines}}}
        if not half:
            stream["files"]["wandb-summary.json"] = {"offset": 0, "content": [json.dumps(found.summary)]}
            stream |= {"complete": True, "exitcode": found.exit_code or 0}
        for _ in range(2 if twice else 1):
            url = f"{base_url}/files/{found.entity}/{found.project}/{found.run_id}/file_stream"
            session.post(url, json=stream, timeout=10).raise_for_status()


def _ask(session: requests.Session, base_url: str, name: str, query: str, variables: Mapping[str, object]) -> Any:
    body = {"operationName": name, "query": query, "variables": dict(variables)}
    answer = session.post(f"{base_url}/graphql", json=body, timeout=10)
    answer.raise_for_status()
    return answer.json()["data"]


def _upload(directory: Path, session: requests.Session, base_url: str, run: Mapping[str, object]) -> None:
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    if names:
        made = _ask(session, base_url, "CreateRunFiles", _FILES, {**run, "files": names})
        for item in made["createRunFiles"]["files"]:
            content = (directory / item["name"]).read_bytes()
            requests.put(item["uploadUrl"], data=content, timeout=10).raise_for_status()
