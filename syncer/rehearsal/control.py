"""`/rehearsal/…`: asking and steering the server over its own port, without a key, from this machine only.

GET    /rehearsal/report[?rows=0]        the report, as JSON
GET    /rehearsal/behaviour              the switches · POST {"late_s": 3, …} sets some
GET    /rehearsal/faults                 the plan · POST [fault, …] replaces it · DELETE clears it
POST   /rehearsal/down {"seconds": 5}    nobody listens for so long; {"restart": true} forgets memory too
POST   /rehearsal/delete_run {"entity", "project", "run_id"}
POST   /rehearsal/accounts [{"key", "entity", "teams"}, …]  replaces the further accounts
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wandb_spool.syncer.rehearsal import run_changes
from wandb_spool.syncer.rehearsal.behaviour import Account
from wandb_spool.syncer.rehearsal.errors import Refused, permission_denied
from wandb_spool.syncer.rehearsal.faults import FaultPlan, dump_faults, parse_faults
from wandb_spool.syncer.rehearsal.judge import make_report
from wandb_spool.syncer.rehearsal.model import RunKey
from wandb_spool.syncer.rehearsal.service import Service


class Steering(Protocol):
    """What only the server around the application can do."""

    def interrupt(self, seconds: float, *, restart: bool) -> None:
        """Stop listening now, drop every connection, and listen again after `seconds`."""


def routes(service: Service, steering: Steering) -> list[Route]:
    """The routes; they answer nobody but loopback."""
    control = _Control(service, steering)
    table: dict[str, tuple[list[str], Callable[[Request], Awaitable[Any]]]] = {
        "report": (["GET"], control.report),
        "behaviour": (["GET", "POST"], control.behaviour),
        "faults": (["GET", "POST", "DELETE"], control.faults),
        "down": (["POST"], control.down),
        "delete_run": (["POST"], control.delete_run),
        "accounts": (["POST"], control.accounts),
    }
    return [Route(f"/rehearsal/{name}", _local(handler), methods=methods) for name, (methods, handler) in table.items()]


def _local(handler: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        if request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
            raise permission_denied()
        try:
            return JSONResponse(await handler(request))
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(400, f"{request.url.path}: {error}") from None

    return guarded


class _Control:
    def __init__(self, service: Service, steering: Steering) -> None:
        self._service, self._steering = service, steering

    async def report(self, request: Request) -> Any:
        rows = request.query_params.get("rows", "1") != "0"
        report = await run_in_threadpool(make_report, self._service, rows=rows)
        return report.to_json()

    async def behaviour(self, request: Request) -> Any:
        if request.method == "POST":
            self._service.behaviour = self._service.behaviour.changed(**await request.json())
        return self._service.behaviour.to_json()

    async def faults(self, request: Request) -> Any:
        if request.method == "POST":
            self._service.plan = parse_faults((await request.body()).decode())
        elif request.method == "DELETE":
            self._service.plan = FaultPlan()
        return json.loads(dump_faults(self._service.plan.faults, seed=self._service.plan.seed))

    async def down(self, request: Request) -> Any:
        wanted = json.loads(await request.body() or b"{}")
        seconds = float(wanted.get("seconds", 1.0))
        self._steering.interrupt(seconds, restart=bool(wanted.get("restart")))
        return {"down_for_seconds": seconds}

    async def delete_run(self, request: Request) -> Any:
        body = await request.json()
        key = RunKey(body["entity"], body["project"], body["run_id"])
        with self._service.store.lock:
            run_changes.delete_run(self._service.store, key)
        return {"deleted": str(key)}

    async def accounts(self, request: Request) -> Any:
        accounts = [Account(a["key"], a["entity"], tuple(a.get("teams", ()))) for a in await request.json()]
        self._service.extra_accounts = tuple(accounts)
        return {"accounts": len(accounts)}
