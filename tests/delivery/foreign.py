"""A server that speaks most of W&B's language: a relay to the rehearsal server that does not know some field."""

from __future__ import annotations

import http.server
import json
import threading
from types import TracebackType

import requests


class ForeignServer:
    """A context manager; `unknown` is the GraphQL field that it has never heard of."""

    def __init__(self, upstream: str) -> None:
        self.unknown = ""
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = owner._answer(upstream, self.path, self.headers, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, upstream: str, path: str, headers: object, body: bytes) -> tuple[int, bytes]:
        asked_by_us = "wandb-spool" in str(getattr(headers, "get", lambda name: "")("User-Agent"))
        if path == "/graphql" and asked_by_us and self.unknown and self.unknown in json.loads(body)["query"]:
            message = f'Cannot query field "{self.unknown}" on type "Run".'
            return 400, json.dumps({"errors": [{"message": message}]}).encode()
        kept = {name: value for name, value in dict(headers).items() if name.lower() != "host"}  # type: ignore[call-overload]
        method = "PUT" if path.startswith("/storage") else "POST"
        host = {"Host": self.base_url.partition("//")[2]}
        answer = requests.request(method, upstream + path, headers={**kept, **host}, data=body, timeout=30)
        return answer.status_code, answer.content

    def __enter__(self) -> ForeignServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
