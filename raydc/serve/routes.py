"""Requests to answers: which path does what, what is refused, and how errors look.

Every error is JSON `{"error": ..., "request_id": ...}`; a client never sees a stack trace.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from raydc.errors import DataError
from raydc.serve import page, protocol
from raydc.serve.service import Array, Loaded, Service
from raydc.serve.tensors import RequestError

logger = logging.getLogger("ray.serve")

# A body up to this size is parsed on the event loop; it takes well under a millisecond.
_SMALL_BODY_BYTES = 16 * 1024

PATHS = (
    "GET /",
    "GET /healthz",
    "POST /predict",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model}[/versions/{version}]",
    "GET /v2/models/{model}[/versions/{version}]/ready",
    "POST /v2/models/{model}[/versions/{version}]/infer",
)

Handler = Callable[[Request], Awaitable[dict[str, Any]]]


class Routes:
    """The HTTP interface of a service."""

    def __init__(self, service: Service, version: str) -> None:
        self.service = service
        self.version = version

    async def respond(self, request: Request) -> Response:
        """Answers any request; never raises for what a client or a model does."""
        if (shown := page.answer(request)) is not None:
            return shown
        key = request.headers.get("x-raydc-key") or _request_id(request)
        loaded = self._choose(request, key)
        started = time.perf_counter()
        response = await self._respond(request, loaded, key)
        if loaded is not None and request.method == "POST":
            self.service.tallies[loaded.number].add(response.status_code, time.perf_counter() - started)
        return response

    def _choose(self, request: Request, key: str) -> Loaded | None:
        """The version that the path names, where it runs; else that of the key."""
        segments = _segments(request)
        named = self.service.find(segments[4]) if segments[3:4] == ["versions"] and len(segments) > 4 else None
        return named or self.service.choose(key)

    async def _respond(self, request: Request, loaded: Loaded | None, key: str) -> Response:
        headers = {"x-raydc-model": loaded.settings.model, "x-raydc-model-version": loaded.version} if loaded else {}
        timeout_s = loaded.settings.request_timeout_s if loaded else None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                body = await self._dispatch(request, loaded, key)
            return _json(200, body, headers)
        except RequestError as error:
            return _error(request, error.status, error.message, {**headers, **error.headers})
        except DataError as error:
            return _error(request, 422, f"{error.message}. {error.hint}" if error.hint else error.message, headers)
        except ClientDisconnect:
            return _error(request, 400, "the client went away", headers)
        except Exception as error:  # The last place where an error can become an answer.
            if isinstance(error, TimeoutError) and deadline.expired():
                return _error(request, 408, f"no answer within request_timeout_s = {timeout_s:g} s", headers)
            logger.exception("request %s failed", _request_id(request))
            return _error(request, 500, "the model failed on this request; the replica's log says why", headers)

    async def _dispatch(self, request: Request, loaded: Loaded | None, key: str) -> dict[str, Any]:
        match _segments(request):
            case ["healthz"]:
                _allow(request, "GET")
                ready = _require(loaded)
                return {"status": "ok", "model": ready.settings.model, "version": ready.version}
            case ["predict"]:
                _allow(request, "POST")
                return await self._predict(request, _require(loaded), key)
            case ["v2"]:
                _allow(request, "GET")
                return {"name": "raydc", "version": self.version, "extensions": []}
            case ["v2", "health", "live"]:
                _allow(request, "GET")
                return {"live": True}
            case ["v2", "health", "ready"]:
                _allow(request, "GET")
                _require(loaded)
                return {"ready": True}
            case ["v2", "models", model, *rest]:
                return await self._model(request, _require(loaded), key, model, rest)
            case _:
                raise RequestError(404, f"no path {request.scope['path']}; there are: {', '.join(PATHS)}")

    async def _model(self, request: Request, loaded: Loaded, key: str, model: str, rest: list[str]) -> dict[str, Any]:
        if model != loaded.settings.model:
            raise RequestError(404, f"no model {model!r}; this endpoint serves {loaded.settings.model!r}")
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != loaded.version:
                raise RequestError(404, f"no version {rest[1]!r}; this endpoint serves {loaded.version!r}")
            rest = rest[2:]
        match rest:
            case []:
                _allow(request, "GET")
                return _metadata(loaded)
            case ["ready"]:
                _allow(request, "GET")
                return {"name": model, "ready": True}
            case ["infer"]:
                _allow(request, "POST")
                return await self._infer(request, loaded, key)
            case _:
                raise RequestError(404, f"no path {request.scope['path']}; there are: {', '.join(PATHS)}")

    async def _predict(self, request: Request, loaded: Loaded, key: str) -> dict[str, Any]:
        kind = _content_type(request)
        if kind.startswith("image/"):
            if not loaded.interface.image_columns:
                raise RequestError(415, f"{loaded.settings.model} takes no images; send application/json")
            parse = _parse_image
        elif kind == "application/json":
            parse = _parse_rows
        else:
            raise RequestError(415, f"content-type is {kind!r}; send application/json or image/*")
        async with self.service.admit(loaded):
            body = await _read(request, loaded.settings.max_request_bytes)
            predictions = await self.service.predict(loaded, lambda: parse(body, loaded), _is_large(body, loaded))
        self.service.mirror(loaded, key, lambda other: parse(body, other), predictions)
        return {"predictions": predictions, "model": loaded.settings.model, "version": loaded.version}

    async def _infer(self, request: Request, loaded: Loaded, key: str) -> dict[str, Any]:
        kind = _content_type(request)
        if kind != "application/json":
            raise RequestError(415, f"content-type is {kind!r}; send application/json")
        parsed: list[protocol.InferRequest] = []

        def inputs() -> Array:
            parsed.append(protocol.parse_infer(protocol.parse_json(body), loaded.interface))
            return loaded.bundle.features.apply(parsed[0].columns)

        async with self.service.admit(loaded):
            body = await _read(request, loaded.settings.max_request_bytes)
            predictions = await self.service.predict(loaded, inputs, _is_large(body, loaded))
        self.service.mirror(loaded, key, lambda other: _parse_infer(body, other), predictions)
        return protocol.infer_answer(parsed[0], predictions, loaded.settings.model, loaded.version)


def _segments(request: Request) -> list[str]:
    """The path below that of the endpoint, cut at its slashes."""
    path: str = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return path.strip("/").split("/")


def _parse_rows(body: bytes, loaded: Loaded) -> Array:
    features = loaded.bundle.features
    return features.apply(features.from_json_rows(protocol.parse_predict(protocol.parse_json(body))))


def _parse_infer(body: bytes, loaded: Loaded) -> Array:
    return loaded.bundle.features.apply(protocol.parse_infer(protocol.parse_json(body), loaded.interface).columns)


def _parse_image(body: bytes, loaded: Loaded) -> Array:
    if not body:
        raise RequestError(400, "the body is empty")
    return loaded.bundle.features.apply({loaded.interface.image_columns[0]: [body]})


def _metadata(loaded: Loaded) -> dict[str, Any]:
    parameters = {
        "alias": loaded.settings.alias,
        "digest": f"sha256:{loaded.bundle.digest}",
        "task": loaded.bundle.features.signature.task,
    }
    return protocol.model_metadata(loaded.settings.model, loaded.version, loaded.interface, parameters)


def _is_large(body: bytes, loaded: Loaded) -> bool:
    return len(body) > _SMALL_BODY_BYTES or bool(loaded.interface.image_columns)


def _require(loaded: Loaded | None) -> Loaded:
    if loaded is None:
        raise RequestError(503, "no model is ready yet", {"retry-after": "1"})
    return loaded


def _allow(request: Request, method: str) -> None:
    if request.method != method:
        raise RequestError(405, f"{request.method} is not allowed here; use {method}", {"allow": method})


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body; refused as soon as it is known to be too large."""
    too_large = RequestError(413, f"the body is larger than max_request_bytes = {max_bytes}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _request_id(request: Request) -> str:
    # Ray Serve puts one into the request and into the headers of the answer.
    given: str | None = request.headers.get("x-request-id")
    if given is None:
        given = str(request.scope.setdefault("raydc.request_id", uuid.uuid4().hex))
    return given


def _error(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    return _json(status, {"error": message, "request_id": _request_id(request)}, headers)


def _json(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(to_json(body), status, headers, media_type="application/json")
