"""Whatever a server answers, a question ends: with an answer, or with a class of failure that names no key."""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from typing import Any

import pytest

from wandb_spool.syncer.failures import DeliveryError, Failure
from wandb_spool.syncer.server import Server

KEY = "k" * 40
Reply = Callable[[http.server.BaseHTTPRequestHandler, dict[str, Any]], None]


class Answering:
    """A server that answers as it is told."""

    def __init__(self) -> None:
        self.reply: Reply = lambda handler, body: None
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                try:
                    owner.reply(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.listener.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self.base_url = f"http://127.0.0.1:{self.listener.server_port}"

    def says(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()

        def reply(handler: http.server.BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
            handler.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

        self.reply = reply


@pytest.fixture
def answering() -> Iterator[Answering]:
    server = Answering()
    threading.Thread(target=server.listener.serve_forever, daemon=True).start()
    yield server
    server.listener.shutdown()
    server.listener.server_close()


def questions(server: Server) -> list[Callable[[], object]]:
    return [
        server.account,
        lambda: server.run("e", "p", "r"),
        lambda: server.history("e", "p", "r", 0, 10, 10),
        lambda: server.resumable_lines("e", "p", "r"),
        lambda: list(islice(server.files("e", "p", "r"), 100)),
        lambda: list(islice(server.artifacts("e", "p", "r"), 100)),
    ]


def failures(server: Server) -> list[DeliveryError]:
    """Ask everything. Whatever is no `DeliveryError` ends the test."""
    found = []
    for ask in questions(server):
        try:
            ask()
        except DeliveryError as error:
            found.append(error)
    return found


def nested(path: str, value: object) -> dict[str, Any]:
    """An answer that is right but for one place."""
    run: dict[str, Any] = {"name": "r", "history": [json.dumps({"_step": 0})], "tags": []}
    run |= {"files": {"edges": [], "pageInfo": {}}, "artifacts": {"edges": [], "pageInfo": {}}}
    data: dict[str, Any] = {"viewer": {"entity": "e", "teams": {"edges": []}}, "project": {"run": run}}
    data["model"] = {"bucket": {"historyLineCount": 1}}
    *parents, last = path.split(".")
    place: Any = data
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value
    return {"data": data}


PLACES = ("viewer", "viewer.teams", "viewer.teams.edges", "project", "project.run", "project.run.history",
          "project.run.history.0", "project.run.tags", "project.run.historyLineCount", "project.run.files",
          "project.run.files.edges", "project.run.files.pageInfo", "project.run.artifacts", "model", "model.bucket",
          "model.bucket.historyLineCount")  # fmt: skip
VALUES: tuple[object, ...] = (
    [1], [[]], "x", "²", "9" * 5000, 7, 1.5, True, {"a": 1}, {"_step": float("nan")}, {"_step": float("inf")},
    {"_step": True}, None, [{"node": {}}], {"edges": {"a": 1}}, "[" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_value_of_another_type_anywhere_ends_no_pass(answering: Answering, place: str) -> None:
    server = Server(answering.base_url, KEY)
    for value in VALUES:
        answering.says(nested(place, value))
        assert all(error.failure in (Failure.UNREADABLE, Failure.AUTH) for error in failures(server))
    server.close()


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b"", b"7"], ids=["lists", "objects", "bytes", "", "7"]
)
def test_what_is_no_answer_cannot_be_read_back(answering: Answering, body: bytes) -> None:
    answering.says(body)
    server = Server(answering.base_url, KEY)
    assert [error.failure for error in failures(server)] == [Failure.UNREADABLE] * 6
    server.close()


@pytest.mark.parametrize("before", ["", "permission denied: "])
def test_a_server_that_repeats_the_key_does_not_get_it_into_a_reason(answering: Answering, before: str) -> None:
    secret = base64.b64encode(f"api:{KEY}".encode()).decode()
    answering.says({"errors": [{"message": f"{before}Basic {secret}, {KEY}"}]})
    server = Server(answering.base_url, KEY)
    found = failures(server)
    assert len(found) == 6
    assert not any(secret[:20] in str(error) or KEY[:20] in str(error) for error in found)
    server.close()


def test_a_time_to_wait_that_is_no_number_is_none(answering: Answering) -> None:
    answering.says({}, 429, {"Retry-After": "nan"})
    server = Server(answering.base_url, KEY)
    assert {(error.failure, error.retry_after_s) for error in failures(server)} == {(Failure.RATE, None)}
    server.close()


def test_another_run_than_the_one_asked_for_proves_nothing(answering: Answering) -> None:
    answering.says(nested("project.run.name", "another"))
    server = Server(answering.base_url, KEY)
    with pytest.raises(DeliveryError, match="another one") as raised:
        server.run("e", "p", "r")
    assert raised.value.failure is Failure.UNREADABLE
    server.close()


@pytest.mark.parametrize("status", [200, 404])
def test_a_project_that_is_not_there_yet_may_be_told_as_an_error(answering: Answering, status: int) -> None:
    answering.says({"errors": [{"message": "Could not find project p"}], "data": {"project": None}}, status)
    server = Server(answering.base_url, KEY)
    assert server.run("e", "p", "r") is None
    with pytest.raises(DeliveryError, match="cannot be read back"):
        server.history("e", "p", "r", 0, 10, 10)
    server.close()


def test_pages_that_go_round_in_a_circle_end(answering: Answering) -> None:
    numbers = count()

    def reply(handler: http.server.BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        info = {"hasNextPage": True, "endCursor": "abc"[next(numbers) % 3]}
        page = {"edges": [{"node": {"name": "f", "sizeBytes": 1}}], "pageInfo": info}
        answering.says(nested("project.run.files", page))
        answered = answering.reply
        answering.reply = reply
        answered(handler, asked)

    answering.reply = reply
    server = Server(answering.base_url, KEY)
    assert len(list(islice(server.files("e", "p", "r"), 100))) < 10
    server.close()


@pytest.mark.parametrize("where", ["head", "body", "body without a length"])
def test_an_answer_that_drips_is_cut_off(answering: Answering, where: str) -> None:
    cut = threading.Event()

    def reply(handler: http.server.BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        head = {"head": "", "body": "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"}
        handler.wfile.write(head.get(where, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").encode())
        try:
            while not cut.wait(0.02):
                handler.wfile.write(b"H")
        except OSError:
            cut.set()
            raise

    answering.reply = reply
    server = Server(answering.base_url, KEY, answer_s=0.5)
    with pytest.raises(DeliveryError, match="no whole answer within") as raised:
        server.account()
    assert raised.value.failure is Failure.UNREACHABLE
    assert cut.wait(30), "and its connection is closed"
    server.close()


def test_an_answer_that_unpacks_to_gigabytes_is_not_read(answering: Answering) -> None:
    once = gzip.compress(b" " * (16 << 20), 9)
    answering.says(once * 64, headers={"Content-Encoding": "gzip"})
    server = Server(answering.base_url, KEY)
    with pytest.raises(DeliveryError, match="more than") as raised:
        server.account()
    assert raised.value.failure is Failure.UNREADABLE
    server.close()
