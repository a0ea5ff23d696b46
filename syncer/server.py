"""Ask a W&B service what it holds. Read-only: nothing here changes anything on a server.

The questions are those of wandb's own client, by operation name and shape (wandb 0.31: `apis/public/runs.py`,
`apis/public/files.py`, `sdk/artifacts/_generated/operations.py`, and wandb-core's `HistoryPage`), so that every server
that serves wandb's client can answer them. Every way in which a server can fail to answer is one `DeliveryError` with
its class; an answer that is not W&B's is *cannot be read back*, or a captive portal when it is a web page.
"""

from __future__ import annotations

import base64
import http.client
import math
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from .addresses import is_loopback
from .answers import ANSWER_S, Bounded, Deadline, body_of, deadline, items, members, parsed
from .failures import DeliveryError, Failure
from .stopping import interruptible

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
RETRY_AFTER_CAP_S = 600.0
_PAGE = 200
_MOST_PAGES = 100_000
_ABSENT = re.compile("not found|could not find|does not exist|doesn't exist", re.IGNORECASE)

_VIEWER = "query Viewer { viewer { id entity username flags teams { edges { node { name } } } } }"

_SMALL_VIEWER = "query Viewer { viewer { id entity username } }"

_RUN = """
query Run($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $name) {
      id name displayName tags group jobType notes state config summaryMetrics historyLineCount
    }
  }
}"""

_RESUME_STATUS = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    id name
    bucket(name: $name, missingOk: true) { id name historyLineCount }
  }
}"""

_SMALL_RUN = """
query Run($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $name) { id name config summaryMetrics }
  }
}"""

_HISTORY_PAGE = """
query HistoryPage($entity: String!, $project: String!, $run: String!, $minStep: Int64!, $maxStep: Int64!, $pageSize: Int!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize)
    }
  }
}"""  # noqa: E501

_RUN_FILES = """
query RunFiles($project: String!, $entity: String!, $name: String!, $fileCursor: String, $fileLimit: Int = 50) {
  project(name: $project, entityName: $entity) {
    run(name: $name) {
      files(after: $fileCursor, first: $fileLimit) {
        edges { node { id name sizeBytes md5 } cursor }
        pageInfo { endCursor hasNextPage }
      }
    }
  }
}"""

_OUTPUT_ARTIFACTS = """
query RunOutputArtifacts($entity: String!, $project: String!, $run: String!, $cursor: String, $perPage: Int) {
  project(entityName: $entity, name: $project) {
    run(name: $run) {
      artifacts: outputArtifacts(after: $cursor, first: $perPage) {
        pageInfo { endCursor hasNextPage }
        edges { node { id state digest } }
      }
    }
  }
}"""


@dataclass(frozen=True)
class Account:
    """Whose key it is."""

    entity: str | None
    username: str | None
    teams: tuple[str, ...]


@dataclass(frozen=True)
class RemoteRun:
    """What a server says of a run. A field that it does not answer is None: *not proven*, never *absent*."""

    name: str
    display_name: str | None
    state: str | None
    history_line_count: int | None
    config: dict[str, Any] | None
    summary: dict[str, Any] | None
    attributes: dict[str, Any]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a run; `md5_base64` is None where the server does not tell."""

    name: str
    size_bytes: int
    md5_base64: str | None


@dataclass(frozen=True)
class RemoteArtifact:
    """An artifact that a run made."""

    digest: str
    state: str


class Server:
    """A W&B service and an account on it. Not thread-safe (one connection is kept open)."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        ca: str | None = None,
        proxy: str | None = None,
        user_agent: str = "wandb-spool",
        answer_s: float = ANSWER_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.told_date: str | None = None
        """What the last answer gave as its `Date`, whatever else it said."""
        self._key, self._answer_s = api_key, answer_s
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Bounded())
        self._session.auth = ("api", api_key)
        self._session.headers["User-Agent"] = user_agent
        if is_loopback(base_url):
            self._session.trust_env = False  # a proxy has nothing to do with a server on this machine
        if ca:
            self._session.verify = ca
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}

    def __repr__(self) -> str:
        return f"Server({self.base_url!r})"

    def close(self) -> None:
        self._session.close()

    # -- questions ---------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """Whose key this is; the one cheap probe. A null viewer is a key that the server does not know."""
        viewer = self._ask_less("Viewer", (_VIEWER, _SMALL_VIEWER), {}).get("viewer")
        if not isinstance(viewer, dict):
            raise DeliveryError(Failure.AUTH, f"{self.base_url} does not know this key")
        teams = tuple(str(node.get("name")) for node in _nodes(members(viewer.get("teams"), "teams")))
        return Account(_text(viewer.get("entity")), _text(viewer.get("username")), teams)

    def run(self, entity: str, project: str, run_id: str) -> RemoteRun | None:
        """What the server holds of a run; None when there is no such run (or project)."""
        found = self._run(entity, project, run_id)
        if found is None:
            return None
        if found.get("name") not in (None, run_id):
            raise DeliveryError(Failure.UNREADABLE, f"asked for the run {run_id}, the server answers with another one")
        return RemoteRun(
            name=run_id,
            display_name=_text(found.get("displayName")),
            state=_text(found.get("state")),
            history_line_count=_integer(found.get("historyLineCount")),
            config=_json_object(found.get("config")),
            summary=_json_object(found.get("summaryMetrics")),
            attributes={
                **{key: _text(found.get(key)) for key in ("displayName", "group", "jobType", "notes")},
                "tags": [tag for tag in items(found.get("tags"), "tags") if isinstance(tag, str)],
            },
        )

    def _run(self, entity: str, project: str, run_id: str) -> dict[str, Any] | None:
        variables = {"entity": entity, "project": project, "name": run_id}
        return _run_of(self._ask_less("Run", (_RUN, _SMALL_RUN), variables))

    def history(
        self, entity: str, project: str, run_id: str, first_step: int, end_step: int, limit: int
    ) -> list[dict[str, Any]]:
        """The rows with `first_step <= _step < end_step`, at most `limit`, in the server's order."""
        variables = {
            "entity": entity,
            "project": project,
            "run": run_id,
            "minStep": first_step,
            "maxStep": end_step,
            "pageSize": limit,
        }
        found = _run_of(self._ask("HistoryPage", _HISTORY_PAGE, variables))
        return [] if found is None else [_row(line) for line in items(found.get("history"), "the history")]

    def resumable_lines(self, entity: str, project: str, run_id: str) -> int:
        """How many history lines the server tells a resuming client that it holds; 0 when it does not tell.

        `wandb sync` writes behind that many lines, so this decides whether missing rows can be sent alone.
        """
        variables = {"entity": entity, "project": project, "name": run_id}
        model = members(self._ask("RunResumeStatus", _RESUME_STATUS, variables).get("model"), "the project")
        return _integer(members(model.get("bucket"), "the run").get("historyLineCount")) or 0

    def files(self, entity: str, project: str, run_id: str) -> Iterator[RemoteFile]:
        """Every file of a run, page by page."""

        def page(cursor: str | None) -> object:
            variables = {"entity": entity, "project": project, "name": run_id, "fileCursor": cursor, "fileLimit": _PAGE}
            return (_run_of(self._ask("RunFiles", _RUN_FILES, variables)) or {}).get("files")

        for node in _all_nodes(page, "files"):
            yield RemoteFile(str(node.get("name")), _integer(node.get("sizeBytes")) or 0, _text(node.get("md5")))

    def artifacts(self, entity: str, project: str, run_id: str) -> Iterator[RemoteArtifact]:
        """Every artifact that a run made, page by page."""

        def page(cursor: str | None) -> object:
            variables = {"entity": entity, "project": project, "run": run_id, "cursor": cursor, "perPage": _PAGE}
            return (_run_of(self._ask("RunOutputArtifacts", _OUTPUT_ARTIFACTS, variables)) or {}).get("artifacts")

        for node in _all_nodes(page, "artifacts"):
            yield RemoteArtifact(str(node.get("digest")), str(node.get("state")))

    # -- one question and every way in which it can fail -------------------------------------------------------------

    def _ask_less(self, operation: str, documents: tuple[str, str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Ask; and ask for less a server that does not know one of the fields."""
        try:
            return self._ask(operation, documents[0], variables)
        except DeliveryError as error:
            if error.failure is not Failure.UNREADABLE:
                raise
            try:
                return self._ask(operation, documents[1], variables)
            except DeliveryError:
                raise error from None

    def _ask(self, operation: str, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The data of an answer. An error tells what the server said, but for the key, which it may have repeated."""
        body = {"operationName": operation, "query": document, "variables": dict(variables)}
        try:
            return _answer(self.base_url, operation, *self._exchange(body))
        except DeliveryError as error:
            told = without_key(error.detail, self._key)
            raise DeliveryError(error.failure, told, retry_after_s=error.retry_after_s) from None

    def _exchange(self, body: Mapping[str, Any]) -> tuple[requests.Response, bytes]:
        try:
            with interruptible(), deadline(self._answer_s) as limit:
                response, content = self._post(body, limit)
                if limit.passed:  # an answer without a length looks whole wherever it is cut
                    raise requests.exceptions.ReadTimeout(f"no whole answer within {self._answer_s:.0f} s")
        except requests.exceptions.SSLError as error:
            raise DeliveryError(
                Failure.UNREACHABLE if _is_cut(error) else Failure.TLS, f"{self.base_url}: {_root(error)}"
            ) from error
        except requests.exceptions.InvalidURL as error:
            raise DeliveryError(Failure.CONFIGURATION, f"base_url {self.base_url!r} is no address") from error
        except (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema) as error:
            raise DeliveryError(
                Failure.CONFIGURATION, f"base_url {self.base_url!r} must begin with https://"
            ) from error
        except OSError as error:  # requests' own errors are OSErrors; a `ca` file that is missing is one too
            if not isinstance(error, requests.exceptions.RequestException):
                raise DeliveryError(Failure.CONFIGURATION, str(error)) from error
            raise DeliveryError(Failure.UNREACHABLE, f"{self.base_url}: {_root(error)}") from error
        self.told_date = response.headers.get("Date")
        return response, content

    def _post(self, body: Mapping[str, Any], limit: Deadline) -> tuple[requests.Response, bytes]:
        """Send a question; once more when the kept connection was closed at the other end meanwhile."""

        def send() -> tuple[requests.Response, bytes]:
            response = self._session.post(
                f"{self.base_url}/graphql",
                json=body,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
                # Said here, because requests lets REQUESTS_CA_BUNDLE and HTTPS_PROXY outrank what a session says.
                verify=self._session.verify,
                proxies=dict(self._session.proxies),
            )
            with response:
                return response, body_of(response, self.base_url)

        try:
            return send()
        except (requests.exceptions.SSLError, requests.exceptions.Timeout):
            raise
        except requests.exceptions.RequestException as error:
            if limit.passed:
                raise requests.exceptions.ReadTimeout(f"no whole answer within {self._answer_s:.0f} s") from None
            if not isinstance(error, requests.exceptions.ConnectionError):
                raise
            return send()


def without_key(text: str, key: str) -> str:
    """What a server or a program said, without the key in any form in which it was given to them."""
    for secret in (key, base64.b64encode(f"api:{key}".encode()).decode()):
        text = text.replace(secret, "***")
    return text


def _answer(base_url: str, operation: str, response: requests.Response, content: bytes) -> dict[str, Any]:
    """The data of an answer, or the class of failure that it is."""
    status = response.status_code
    if status in (401, 403):
        raise DeliveryError(Failure.AUTH, f"{base_url} refuses the key ({status})")
    if status == 407:
        raise DeliveryError(Failure.UNREACHABLE, "the proxy asks for a login (407)")
    if status == 429:
        raise DeliveryError(Failure.RATE, f"{base_url} asks to slow down (429)", retry_after_s=_retry_after(response))
    if status >= 500 or status in (408, 425):
        raise DeliveryError(Failure.SERVER_ERROR, f"{base_url} answers {status}", retry_after_s=_retry_after(response))
    page = "html" in response.headers.get("Content-Type", "").lower() or content[:200].lstrip()[:1] == b"<"
    if 300 <= status < 400 or page:
        raise DeliveryError(Failure.CAPTIVE_PORTAL, f"{base_url} answers with a web page or a redirection ({status})")
    try:
        body = parsed(content)
    except ValueError as error:
        raise DeliveryError(
            Failure.UNREADABLE, f"{base_url}: the answer to {operation} is not JSON ({status})"
        ) from error
    if not isinstance(body, dict):
        raise DeliveryError(Failure.UNREADABLE, f"{base_url}: the answer to {operation} is not GraphQL's")
    return _data(base_url, operation, status, body)


def _data(base_url: str, operation: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    errors = body.get("errors")
    data = body.get("data")
    if errors:
        messages = "; ".join(_message(error) for error in errors[:3]) if isinstance(errors, list) else str(errors)
        if operation == "Run" and isinstance(data, dict) and data.get("project") is None and _ABSENT.search(messages):
            return data  # a project that the first push makes; W&B's cloud says null and no more
        if "permission denied" in messages.lower() or "not authorized" in messages.lower():
            raise DeliveryError(Failure.REFUSED, f"{operation}: {messages[:300]}")
        raise DeliveryError(Failure.UNREADABLE, f"{base_url} can't answer {operation}: {messages[:300]}")
    if status >= 400 or not isinstance(data, dict):
        raise DeliveryError(Failure.UNREADABLE, f"{base_url} can't answer {operation} ({status})")
    return data


def _message(error: object) -> str:
    return str(error.get("message")) if isinstance(error, dict) else str(error)


def _retry_after(response: requests.Response) -> float | None:
    try:
        wait_s = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return None if math.isnan(wait_s) else min(max(wait_s, 0.0), RETRY_AFTER_CAP_S)


def _root(error: BaseException) -> str:
    """The innermost cause in a few words: `requests` wraps errors several times, and prints them as Python does."""
    chain = list(_causes(error))
    cause = chain[-1]
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, http.client.RemoteDisconnected):
        return "what answers there does not speak HTTP"
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    words = re.sub(r"^<?[\w.]+(\(.*?\))?( object at 0x[0-9a-f]+>)?: |\[Errno -?\d+\] |\s*\(_ssl\.c:\d+\)", "", said)
    through = "the proxy: " if any(isinstance(one, urllib3.exceptions.ProxyError) for one in chain) else ""
    return through + (words.strip() or type(cause).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, the one inside it, and so on."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        within = (getattr(inner, "reason", None), *inner.args)
        inner = next((one for one in within if isinstance(one, BaseException)), None)


def _is_cut(error: BaseException) -> bool:
    """The other end hung up during the TLS handshake: that says nothing about certificates."""
    return any(isinstance(one, ssl.SSLEOFError) for one in _causes(error))


def _run_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    run = members(data.get("project"), "the project").get("run")
    return None if run is None else members(run, "the run")


def _all_nodes(ask: Callable[[str | None], object], what: str) -> Iterator[dict[str, Any]]:
    """Page after page, until a page says that it is the last, brings nothing, or points back to one before."""
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(_MOST_PAGES):
        page = members(ask(cursor), what)
        nodes = list(_nodes(page))
        yield from nodes
        info = members(page.get("pageInfo"), "pages")
        cursor = _text(info.get("endCursor"))
        if not (nodes and info.get("hasNextPage") and cursor) or cursor in seen:
            return
        seen.add(cursor)
    raise DeliveryError(Failure.UNREADABLE, f"the server's list of {what} does not end")


def _nodes(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for edge in items(page.get("edges"), "a list"):
        if isinstance(edge, dict) and isinstance(edge.get("node"), dict):
            yield edge["node"]


def _row(line: object) -> dict[str, Any]:
    try:
        row = parsed(line) if isinstance(line, (str, bytes)) else line
    except ValueError as error:
        raise DeliveryError(Failure.UNREADABLE, "a row of the server's history is not JSON") from error
    if not isinstance(row, dict):
        raise DeliveryError(Failure.UNREADABLE, "a row of the server's history is not an object")
    step = row.get("_step")
    if isinstance(step, bool) or not isinstance(step, (int, float)) or (isinstance(step, float) and step % 1 != 0):
        raise DeliveryError(Failure.UNREADABLE, "a row of the server's history has no step")
    return row


def _json_object(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = parsed(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
