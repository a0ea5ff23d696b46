"""uvicorn, opened and closed again and again on one port, with a hold on every connection.

`open` returns when connections are accepted. `close` returns when they are refused and all that were open are
broken; requests in progress are cancelled, and whatever they had not stored is not stored.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from wandb_spool.syncer.rehearsal.app import build_app
from wandb_spool.syncer.rehearsal.fault_injection import FaultInjection, Scope
from wandb_spool.syncer.rehearsal.service import Service

_BACKLOG = 512
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Listener:
    """The HTTP server of a service; also what lets a request interrupt it (`control.Steering`)."""

    def __init__(self, service: Service, port: int, tls: tuple[Path, Path] | None) -> None:
        self._service, self._port, self._tls = service, port, tls
        self._transports: dict[tuple[Any, ...], asyncio.BaseTransport] = {}
        self._app = FaultInjection(build_app(service, self), service, self, self._abort)
        self._accepting = False
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._interruption: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._server is not None:
            return
        self._accepting = True
        self._server = Server(self._config())
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket()]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise OSError("the rehearsal server did not start")
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        server, serving = self._server, self._serving
        if server is None or serving is None:
            return
        self._stop_listening()
        self._server = self._serving = None
        for transport in list(self._transports.values()):
            _reset(transport)
        await asyncio.sleep(0.01)
        server.should_exit = server.force_exit = True
        await serving
        for task in list(server.server_state.tasks):
            task.cancel()

    def interrupt(self, seconds: float, *, restart: bool) -> None:
        if self._interruption is None or self._interruption.done():
            self._stop_listening()
            self._interruption = asyncio.ensure_future(self._interrupt(seconds, restart))

    async def _interrupt(self, seconds: float, restart: bool) -> None:
        await asyncio.sleep(0.02)  # lets the answer to the one who asked for it leave
        await self.close()
        if restart:
            self._service.restart()
        await asyncio.sleep(seconds)
        await self.open()

    def _stop_listening(self) -> None:
        """Refuse from this moment on. Connections that were accepted just now still get their protocol, which breaks
        them: asyncio loses them, open and unserved, when its server is closed in the same turn of the loop."""
        self._accepting = False
        loop = asyncio.get_running_loop()
        for listening in self._server.servers if self._server else ():
            for sock in listening.sockets:
                loop.remove_reader(sock.fileno())
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it was shut down already

    def _abort(self, scope: Scope) -> None:
        transport = self._transports.get(tuple(scope["client"] or ()))
        if transport is not None:
            _reset(transport)

    def _socket(self) -> socket.socket:
        # The protocol is named, because asyncio switches Nagle's algorithm off only then: 40 ms an answer.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", self._port))
        listening.listen(_BACKLOG)
        return listening

    def _config(self) -> Config:
        listener = self

        class Protocol(H11Protocol):
            """Knows the transport of every connection, so that a fault can break it."""

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.rehearsal_peer = tuple(transport.get_extra_info("peername") or ())[:2]
                listener._transports[self.rehearsal_peer] = transport
                if not listener._accepting:
                    _reset(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                listener._transports.pop(self.rehearsal_peer, None)
                super().connection_lost(exc)

        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        certificate, key = self._tls or (None, None)
        return Config(
            self._app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            ssl_certfile=str(certificate) if certificate else None,
            ssl_keyfile=str(key) if key else None,
        )


def _reset(transport: asyncio.BaseTransport) -> None:
    """Break a connection so that the other side sees a reset."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass  # it is gone already
    abort = getattr(transport, "abort", transport.close)
    abort()
