"""Lets the planned faults strike: an ASGI middleware in front of the application.

It names the endpoint of every request, counts it, and asks the plan. The application never knows; what a fault does
to a request is written in `faults`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wandb_spool.syncer.rehearsal import graph
from wandb_spool.syncer.rehearsal.control import Steering
from wandb_spool.syncer.rehearsal.faults import Fault, FaultKind
from wandb_spool.syncer.rehearsal.service import Service

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Abort = Callable[[Scope], None]

FOR_EVER_S = 7 * 24 * 3600.0
CAPTIVE_PORTAL = b"<!doctype html><title>Welcome</title><p>Please sign in to use this network.\n"

_PLACES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("file_stream", re.compile(r"POST /files/[^/]+/[^/]+/[^/]+/file_stream$")),
    ("upload", re.compile(r"PUT /storage/run/")),
    ("artifact_upload", re.compile(r"PUT /storage/")),
    ("download", re.compile(r"(GET|HEAD) /(storage|files|artifacts|artifactsV2)/")),
)


class FaultInjection:
    """The middleware; `abort` breaks the connection that a request came over."""

    def __init__(self, app: App, service: Service, steering: Steering, abort: Abort) -> None:
        self._app, self._service, self._steering, self._abort = app, service, steering, abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/rehearsal/"):
            await self._app(scope, receive, send)
            return
        endpoint = _place(scope)
        if endpoint == "graphql":
            body = await _body(receive)
            endpoint, receive = f"graphql:{_operation(body)}", _replayed(body, receive)
        self._service.requests[endpoint] += 1
        fault = self._service.plan.next_fault(endpoint) if endpoint != "other" else None
        if fault is not None:
            await self._strike(fault, scope, receive, send)
        elif endpoint.startswith(("graphql", "file_stream")) and self._service.over_the_limit():
            await _drain(receive)
            await _answer(send, 429, b'{"error":"rate limit exceeded"}', self._service.behaviour.retry_after_s)
        else:
            await self._app(scope, receive, send)

    async def _strike(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.kind is FaultKind.REFUSE:
            await self._break(scope)
        elif fault.kind in (FaultKind.DOWN, FaultKind.RESTART):
            self._steering.interrupt(fault.seconds or 0.5, restart=fault.kind is FaultKind.RESTART)
            await self._break(scope)
        elif fault.kind in (FaultKind.RESET_AFTER, FaultKind.TRUNCATE, FaultKind.DUPLICATE, FaultKind.SLOW):
            await self._strike_stored(fault, scope, receive, send)
        else:
            await self._strike_dropped(fault, scope, receive, send)

    async def _strike_stored(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Faults that happen around a request which the application does serve."""
        body = await _body(receive)
        answer = _Recorded()
        await self._app(scope, _replayed(body, receive), answer)
        if fault.kind is FaultKind.DUPLICATE:
            answer = _Recorded()
            await self._app(scope, _replayed(body, receive), answer)
        elif fault.kind is FaultKind.SLOW:
            await asyncio.sleep(fault.seconds or 1.0)
        elif fault.kind is FaultKind.TRUNCATE:
            await answer.replay_half(send)
        if fault.kind in (FaultKind.RESET_AFTER, FaultKind.TRUNCATE):
            await self._break(scope)
        else:
            await answer.replay(send)

    async def _strike_dropped(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        """Faults that keep the request from the application."""
        await _drain(receive)
        if fault.kind is FaultKind.RESET_BEFORE:
            await self._break(scope)
        elif fault.kind is FaultKind.HTML:
            await _answer(send, 200, CAPTIVE_PORTAL, None, media_type=b"text/html; charset=utf-8")
        elif fault.kind is FaultKind.HANG:
            await _silence(receive, fault.seconds or FOR_EVER_S)
            await self._break(scope)
        else:
            await _answer(send, fault.status, b'{"error":"rehearsed fault"}', fault.retry_after_s)

    async def _break(self, scope: Scope) -> None:
        self._abort(scope)
        await asyncio.sleep(0.01)  # lets the HTTP server notice before this request counts as unanswered


def _place(scope: Scope) -> str:
    if scope["path"] == "/graphql":
        return "graphql"
    line = f"{scope['method']} {scope['path']}"
    return next((name for name, pattern in _PLACES if pattern.match(line)), "other")


def _operation(body: bytes) -> str:
    try:
        request = json.loads(body)
        return str(request.get("operationName") or graph.operation_name(request["query"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


class _Recorded:
    """An answer that is kept instead of sent."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self._messages.append(message)

    async def replay(self, send: Send) -> None:
        for message in self._messages:
            await send(message)

    async def replay_half(self, send: Send) -> None:
        body = b"".join(message.get("body", b"") for message in self._messages)
        start = dict(self._messages[0])
        start["headers"] = [*_without_length(start["headers"]), (b"content-length", str(len(body) + 1).encode())]
        await send(start)
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await asyncio.sleep(0.01)  # lets the half leave before the connection breaks


def _without_length(headers: Any) -> list[Any]:
    return [header for header in headers if header[0].lower() != b"content-length"]


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replayed(body: bytes, rest: Receive) -> Receive:
    """A `receive` that gives the body once more; what comes behind it comes from `rest`."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await rest()

    return again


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _silence(receive: Receive, seconds: float) -> None:
    """Say nothing for so long, or until the client hangs up."""

    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(hung_up(), seconds)
    except asyncio.TimeoutError:
        pass  # the time is up and the client is still there


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    retry_after_s: float | None,
    *,
    media_type: bytes = b"application/json",
) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    if retry_after_s is not None:
        headers.append((b"retry-after", f"{retry_after_s:g}".encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
