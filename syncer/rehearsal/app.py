"""The HTTP side of the rehearsal server: W&B's endpoints, and `/rehearsal/…` to steer and ask the server itself.

Handlers run on the server's one event loop and touch the store under its lock, so requests are stored one after the
other. A refusal is answered with its status and, as W&B does, a JSON body with `errors`.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from wandb_spool.syncer.rehearsal import artifact_changes, control, graph, run_changes
from wandb_spool.syncer.rehearsal.behaviour import Account
from wandb_spool.syncer.rehearsal.blobs import Blob
from wandb_spool.syncer.rehearsal.errors import Refused, not_found, permission_denied
from wandb_spool.syncer.rehearsal.links import Links
from wandb_spool.syncer.rehearsal.model import RunKey
from wandb_spool.syncer.rehearsal.nodes import Context
from wandb_spool.syncer.rehearsal.service import Service

Handler = Callable[[Request], Awaitable[Response]]


def build_app(service: Service, steering: control.Steering) -> Starlette:
    """The ASGI application."""
    endpoints = _Endpoints(service)
    routes = [
        Route("/graphql", endpoints.graphql, methods=["POST"]),
        Route("/files/{entity}/{project}/{run}/file_stream", endpoints.file_stream, methods=["POST"]),
        Route("/storage/run/{sign}/{entity}/{project}/{run}/{name:path}", endpoints.put_file, methods=["PUT"]),
        Route("/storage/artifact/{sign}/{artifact:int}/{digest}/{name:path}", endpoints.put_artifact, methods=["PUT"]),
        Route("/storage/part/{sign}/{upload}/{part:int}/{name:path}", endpoints.put_part, methods=["PUT"]),
        Route("/storage/manifest/{sign}/{artifact:int}/{name:path}", endpoints.put_manifest, methods=["PUT"]),
        Route("/storage/blob/{sign}/{sha256}/{name:path}", endpoints.get_blob, methods=["GET"]),
        Route("/files/{entity}/{project}/{run}/{name:path}", endpoints.get_file, methods=["GET"]),
        Route("/artifacts/{entity}/{digest}", endpoints.get_by_digest, methods=["GET"]),
        Route("/artifactsV2/{place:path}/{digest}/{name}", endpoints.get_by_digest, methods=["GET"]),
        *control.routes(service, steering),
        Route("/{entity}/{project}/runs/{run}", endpoints.run_page, methods=["GET"]),
        Route("/healthz", _healthy, methods=["GET"]),
        Route("/ready", _healthy, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={Refused: _refused})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    message = {"message": error.message, "extensions": {"code": _CODES.get(error.status, "BAD_REQUEST")}}
    return JSONResponse({"errors": [message], "error": error.message}, status_code=error.status)


_CODES = {401: "PERMISSION_ERROR", 403: "PERMISSION_ERROR", 404: "NOT_FOUND", 409: "CONFLICT"}


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


class _Endpoints:
    """The handlers, with the service that they serve."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def graphql(self, request: Request) -> Response:
        account = self._account(request)
        body = await self._json(request)
        store = self._service.store
        with store.lock:
            context = Context(store, self._service.behaviour, account, self._links(request))
            answer = graph.answer(context, str(body.get("query", "")), body.get("variables"), body.get("operationName"))
        if answer.status in (400, 500):
            self._service.misunderstood += [error["message"] for error in answer.body["errors"]]
        return Response(json.dumps(answer.body), answer.status, media_type="application/json")

    async def file_stream(self, request: Request) -> Response:
        account, key = self._account(request), _run_key(request)
        body = await self._json(request)
        if not account.may_write(key.entity):
            raise permission_denied()
        store = self._service.store
        with store.lock:
            return JSONResponse(run_changes.stream(store, self._service.behaviour, key, body))

    async def put_file(self, request: Request) -> Response:
        key, name = _run_key(request), request.path_params["name"]
        self._admit(request, "run", *key, name)
        self._service.store.run(key)
        blob = await self._receive(request)
        with self._service.store.lock:
            run_changes.add_file(self._service.store, key, name, blob)
        return _stored(blob)

    async def put_artifact(self, request: Request) -> Response:
        number, digest = request.path_params["artifact"], request.path_params["digest"]
        self._admit(request, "artifact", str(number), digest, request.path_params["name"])
        blob = await self._receive(request)
        store = self._service.store
        with store.lock:
            announced = artifact_changes.base64_digest(digest)
            artifact_changes.add_file(store, store.artifact(number), announced, blob)
        return _stored(blob)

    async def put_part(self, request: Request) -> Response:
        upload, part = request.path_params["upload"], request.path_params["part"]
        self._admit(request, "part", upload, str(part), request.path_params["name"])
        blob = await self._receive(request)
        with self._service.store.lock:
            artifact_changes.add_part(self._service.store, upload, part, blob)
        return _stored(blob)

    async def put_manifest(self, request: Request) -> Response:
        number = request.path_params["artifact"]
        self._admit(request, "manifest", str(number), request.path_params["name"])
        blob = await self._receive(request)
        store = self._service.store
        with store.lock:
            artifact_changes.set_manifest_file(store, store.artifact(number), blob)
        return _stored(blob)

    async def get_blob(self, request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        self._admit(request, "blob", sha256, request.path_params["name"])
        return self._file(sha256)

    async def get_file(self, request: Request) -> Response:
        account, key = self._account(request), _run_key(request)
        if not account.may_write(key.entity):
            raise permission_denied()
        file = self._service.store.run(key).files.get(request.path_params["name"])
        if file is None:
            raise not_found(f"file {request.path_params['name']!r}")
        return self._file(file.blob.sha256)

    async def get_by_digest(self, request: Request) -> Response:
        self._account(request)
        digest = artifact_changes.base64_digest(request.path_params["digest"])
        blobs = (a.uploads.get(digest) for a in self._service.store.artifacts.values())
        blob = next((blob for blob in blobs if blob), None)
        if blob is None:
            raise not_found("the artifact's file")
        return self._file(blob.sha256)

    async def run_page(self, request: Request) -> Response:
        key = _run_key(request)
        run = self._service.store.run(key)
        lines = len(self._service.store.history(key))
        return Response(f"{key}: {run.state}, {lines} history lines, {len(run.files)} files\n")

    def _account(self, request: Request) -> Account:
        account = self._service.account(_key_of(request))
        if account is None:
            raise Refused(401, "user is not logged in")
        return account

    def _links(self, request: Request) -> Links:
        host = request.headers.get("host") or "localhost"
        return Links(f"{request.url.scheme}://{host}", self._service.store.key)

    def _admit(self, request: Request, kind: str, *parts: str) -> None:
        if not self._links(request).admits(request.path_params["sign"], kind, *parts):
            raise Refused(403, "SignatureDoesNotMatch")

    async def _json(self, request: Request) -> dict[str, Any]:
        raw = await request.body()
        if request.headers.get("content-encoding", "").lower() == "gzip":
            raw = _inflated(raw, self._service.behaviour.max_body_bytes)
        if _too_large(len(raw), self._service.behaviour.max_body_bytes):
            raise Refused(413, "request entity too large")
        try:
            body = json.loads(raw)
        except ValueError:
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body is not a JSON object")
        return body

    async def _receive(self, request: Request) -> Blob:
        """The body of a PUT as a blob, if it is what its headers announce."""
        limit_bytes = self._service.behaviour.max_body_bytes
        upload = self._service.store.blobs.receive()
        try:
            async for chunk in request.stream():
                upload.write(chunk)
                if _too_large(upload.size_bytes, limit_bytes):
                    raise Refused(413, "request entity too large")
            announced = request.headers.get("content-length")
            if announced is not None and int(announced) != upload.size_bytes:
                raise Refused(400, "IncompleteBody")
            blob = upload.finish()
        except BaseException:
            upload.discard()
            raise
        if (md5 := request.headers.get("content-md5")) and md5 != blob.md5:
            raise Refused(400, "BadDigest")
        return blob

    def _file(self, sha256: str) -> Response:
        path = self._service.store.blobs.path(sha256)
        if not path.is_file():
            raise not_found("the file")
        return FileResponse(path, media_type="application/octet-stream")


def _run_key(request: Request) -> RunKey:
    return RunKey(*(request.path_params[part] for part in ("entity", "project", "run")))


def _stored(blob: Blob) -> Response:
    return Response(status_code=200, headers={"ETag": f'"{blob.md5_hex}"'})


def _key_of(request: Request) -> str:
    """The API key within `Authorization: Basic base64(api:KEY)`, or a bearer's token."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _too_large(size_bytes: int, limit_bytes: int | None) -> bool:
    return limit_bytes is not None and size_bytes > limit_bytes


def _inflated(raw: bytes, limit_bytes: int | None) -> bytes:
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = inflater.decompress(raw, (limit_bytes or 1 << 31) + 1)
    except zlib.error:
        raise Refused(400, "the body is not gzip") from None
    if not inflater.eof and not _too_large(len(text), limit_bytes):
        raise Refused(400, "the gzip body is torn")
    return text
