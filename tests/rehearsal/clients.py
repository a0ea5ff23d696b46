"""Real W&B clients in processes of their own, with an environment that holds nothing of the developer's."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wandb_spool.syncer.rehearsal import RehearsalServer

# The client's private knobs, in whole seconds (it cuts fractions off, and 0 means its own default of minutes or days).
IMPATIENT = {
    f"WANDB_X_{part}_{knob}": value
    for part in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for knob, value in {
        "RETRY_MAX": "2",
        "RETRY_WAIT_MIN_SECONDS": "1",
        "RETRY_WAIT_MAX_SECONDS": "1",
        "TIMEOUT_SECONDS": "3",
    }.items()
}


class Reachable(Protocol):
    """A server of this process or of another one."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str: ...


@dataclass(frozen=True)
class Client:
    """A home for client processes that talk to one server."""

    home: Path
    server: RehearsalServer

    def environment(self, **extra: str) -> dict[str, str]:
        plain = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "WANDB_DIR": str(self.home),
            "WANDB_CACHE_DIR": str(self.home / "cache"),
            "WANDB_CONFIG_DIR": str(self.home / "config"),
            "WANDB_DATA_DIR": str(self.home / "data"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB__REQUIRE_LEGACY_SERVICE": "",
            "WANDB_X_DISABLE_STATS": "true",
        }
        return {**plain, **IMPATIENT, **self.server.environment(), **extra}

    def python(self, program: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a program; its failure is an error of the test."""
        return self._run([sys.executable, "-c", program], check=True, **extra)

    def ask(self, program: str, **extra: str) -> Any:
        """Run a program whose last line is JSON."""
        return json.loads(self.python(program, **extra).stdout.splitlines()[-1])

    def sync(self, *directories: Path, options: tuple[str, ...] = (), **extra: str) -> subprocess.CompletedProcess[str]:
        """`wandb sync`, whatever it answers."""
        command = [sys.executable, "-m", "wandb", "sync", *options, *map(str, directories)]
        return self._run(command, check=False, **extra)

    def run_directories(self, run_id: str) -> list[Path]:
        return sorted(self.home.glob(f"wandb/offline-run-*-{run_id}"))

    def _run(self, command: list[str], *, check: bool, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]


def send(method: str, url: str, body: bytes | None = None, *, key: str | None = None, **headers: str) -> Answer:
    """One plain HTTP request; an error status is an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        named["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return Answer(response.status, response.read(), dict(response.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


def post(server: Reachable, path: str, body: Any, *, key: str | None = None) -> Answer:
    """POST JSON with the server's key (or another one); the answer's body is parsed when it is JSON."""
    answer = send("POST", server.base_url + path, json.dumps(body).encode(), key=key or server.api_key)
    try:
        return Answer(answer.status, json.loads(answer.body), answer.headers)
    except ValueError:
        return answer


def gql(server: Reachable, query: str, *, key: str | None = None, **variables: Any) -> Any:
    """The data of a GraphQL answer; an error is an AssertionError that shows it."""
    answer = post(server, "/graphql", {"query": query, "variables": variables}, key=key)
    assert answer.status == 200, answer
    return answer.body["data"]


def make_run(server: Reachable, run_id: str, *, entity: str | None = None, key: str | None = None) -> Answer:
    query = """mutation($e: String, $n: String) {
      upsertBucket(input: {entityName: $e, modelName: "p", name: $n}) { bucket { id historyLineCount } inserted } }"""
    return post(server, "/graphql", {"query": query, "variables": {"e": entity, "n": run_id}}, key=key)


def stream(server: Reachable, run_id: str, offset: int, rows: Sequence[Mapping[str, Any]], **rest: Any) -> Answer:
    """One file_stream request with history rows."""
    chunk = {"offset": offset, "content": [json.dumps(row) for row in rows]}
    body = {"files": {"wandb-history.jsonl": chunk}, **rest}
    return post(server, f"/files/rehearsal/p/{run_id}/file_stream", body)


def rows(first: int, end: int, *, stamp: float = 0.0) -> list[dict[str, Any]]:
    """Rows as wandb writes them: their value and their time of logging follow the step."""
    return [{"loss": 1 / (i + 1), "_step": i, "_timestamp": 1000.0 + i + stamp} for i in range(first, end)]
