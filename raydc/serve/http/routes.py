"""Requests to answers: which path does what, what is refused, and how errors look.

Every error is JSON `{"error": ..., "request_id": ...}`; a client never sees a stack trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.errors import DataError, TooManyPixelsError
from raydc.serve.http import page
from raydc.serve.http.request import GONE, EncodedResponse, Request, answer_json, refuse
from raydc.serve.protocol import binary, model_facts, open_inference, openapi, predict_body
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.service import Array, LoadedVersion, Service

logger = logging.getLogger("ray.serve")

# Up to these sizes a request is parsed, and an answer made, on the event loop, in about the time that handing it to a
# thread would take.
_SMALL_BODY_BYTES = 16 * 1024
_FEW_PIXELS = 64 * 64
_FEW_SCORES = 2048
# Binary tensors are not parsed, only copied.
_BINARY_GAIN = 64

# Clients of Ray Serve know it.
_TIMEOUT = b"x-request-timeout-seconds"
_JSON_BYTES = binary.HEADER.lower().encode()

PATHS = (
    "GET /",
    "GET /docs",
    "GET /openapi.json",
    "GET /healthz",
    "GET /ping",
    "POST /predict",
    "POST /invocations",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model}[/versions/{version}]",
    "GET /v2/models/{model}[/versions/{version}]/ready",
    "POST /v2/models/{model}[/versions/{version}]/infer",
)


class Routes:
    """The HTTP interface of a service.

    Attributes:
        answered: Number of answers by status since the replica began.
    """

    def __init__(self, service: Service, version: str) -> None:
        self.service = service
        self.version = version
        self.answered: Counter[int] = Counter()

    async def respond(self, asked: Request) -> Response:
        """Answers any request; never raises for what a client or a model does."""
        started = time.perf_counter()
        loaded = self._choose(asked)
        response = await self._respond(asked, loaded)
        if loaded is not None:
            response.raw_headers.append((b"x-raydc-model", loaded.settings.model.encode()))
            response.raw_headers.append((b"x-raydc-model-version", loaded.version.encode()))
            if asked.method == "POST":
                self.service.tallies[loaded.number].add(
                    response.status_code, time.perf_counter() - started
                )
        self.answered[response.status_code] += 1
        return response

    def _choose(self, asked: Request) -> LoadedVersion | None:
        """The version that the path names, where it runs; else that of the key."""
        path = asked.path
        is_named = len(path) > 4 and path[:2] == ["v2", "models"] and path[3] == "versions"
        named = self.service.find(path[4]) if is_named else None
        return named or self.service.choose(asked.key)

    async def _respond(self, asked: Request, loaded: LoadedVersion | None) -> Response:
        timeout_s = _timeout_s(asked, loaded.settings.request_timeout_s) if loaded else None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await self._dispatch(asked, loaded)
        except RequestError as error:
            return refuse(asked, error)
        except DataError as error:
            status = 413 if isinstance(error, TooManyPixelsError) else 422
            message = f"{error.message}. {error.hint}" if error.hint else error.message
            return refuse(asked, RequestError(status, message))
        except ClientDisconnect:
            return refuse(asked, RequestError(GONE, "the client went away"))
        except Exception as error:  # The last place where an error can become an answer.
            # A TimeoutError may also be the model's own, which is a failure.
            if isinstance(error, TimeoutError) and deadline.expired():
                return refuse(asked, RequestError(408, _too_late(timeout_s, loaded)))
            logger.exception("request %s failed", asked.id)
            message = "the model failed on this request; the replica's log says why"
            return refuse(asked, RequestError(500, message))

    async def _dispatch(self, asked: Request, loaded: LoadedVersion | None) -> Response:
        match asked.path:
            case ["predict"] | ["invocations"]:
                asked.allow("POST")
                return await self._predict(asked, _require(loaded))
            case ["v2", "models", model, *rest]:
                return await self._model(asked, _require(loaded), model, rest)
            case ["healthz"] | ["ping"]:
                asked.allow("GET")
                ready = _require(loaded)
                return answer_json(
                    {"status": "ok", "model": ready.settings.model, "version": ready.version}
                )
            case ["v2"]:
                asked.allow("GET")
                return answer_json(
                    {"name": "raydc", "version": self.version, "extensions": [binary.EXTENSION]}
                )
            case ["v2", "health", "live"]:
                asked.allow("GET")
                return answer_json({"live": True})
            case ["v2", "health", "ready"]:
                asked.allow("GET")
                _require(loaded)
                return answer_json({"ready": True})
            case ["openapi.json"]:
                asked.allow("GET")
                return answer_json(self._document(asked, _require(loaded)))
            case ["docs"]:
                asked.allow("GET")
                # Where frameworks show their interface to people; a client follows it to the document.
                return Response(status_code=307, headers={"location": "openapi.json"})
        if (shown := page.answer(asked)) is not None:
            return shown
        raise RequestError(
            404, f"no path {asked.scope['path'][:200]}; there are: {', '.join(PATHS)}"
        )

    def _document(self, asked: Request, loaded: LoadedVersion) -> dict[str, Any]:
        settings = loaded.settings
        prefix = asked.scope.get("root_path", "")
        return openapi.document(
            settings.model, loaded.version, loaded.interface, settings, self.version, prefix
        )

    async def _model(
        self, asked: Request, loaded: LoadedVersion, model: str, rest: list[str]
    ) -> Response:
        if model != loaded.settings.model:
            raise RequestError(
                404, f"no model {model[:200]!r}; this endpoint serves {loaded.settings.model!r}"
            )
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != loaded.version:
                raise RequestError(
                    404, f"no version {rest[1][:200]!r}; this endpoint serves {loaded.version!r}"
                )
            rest = rest[2:]
        match rest:
            case ["infer"]:
                asked.allow("POST")
                return await self._infer(asked, loaded)
            case []:
                asked.allow("GET")
                return answer_json(_metadata(loaded))
            case ["ready"]:
                asked.allow("GET")
                return answer_json({"name": model, "ready": True})
        raise RequestError(
            404, f"no path {asked.scope['path'][:200]}; there are: {', '.join(PATHS)}"
        )

    async def _predict(self, asked: Request, loaded: LoadedVersion) -> Response:
        settings, interface = loaded.settings, loaded.interface
        content_type = asked.text(b"content-type")
        predict_body.check_kind(predict_body.media_type(content_type), interface)
        slot = await self.service.admission.admit()
        try:
            content = await asked.read(settings.max_request_bytes)
            body = predict_body.Body(
                content, content_type, asked.scope.get("query_string", b"").decode("latin-1")
            )

            def inputs(max_pixels: int) -> Array:
                return body.inputs(interface, settings.max_request_rows, max_pixels)

            def again(other: LoadedVersion) -> Array:
                return body.inputs(
                    other.interface, settings.max_request_rows, settings.max_request_pixels
                )

            await slot.start_computing()
            values_BK = await self._compute(
                asked, loaded, await self._inputs(loaded, inputs, len(content))
            )
            answer = await self._work(values_BK, lambda: _predictions(values_BK, loaded))
        finally:
            slot.release()
        asked.rows = len(values_BK)
        self.service.mirror(loaded, asked.key, again, values_BK)
        return answer

    async def _infer(self, asked: Request, loaded: LoadedVersion) -> Response:
        settings, interface = loaded.settings, loaded.interface
        kind = predict_body.media_type(asked.text(b"content-type"))
        length = asked.text(_JSON_BYTES) if _JSON_BYTES in asked.headers else None
        if kind != predict_body.JSON and not (kind == predict_body.RAW and length is not None):
            raise RequestError(
                415,
                f"content-type is {kind[:80]!r}; send {predict_body.JSON}, or {predict_body.RAW} with {binary.HEADER}",
            )
        slot = await self.service.admission.admit()
        try:
            content = await asked.read(settings.max_request_bytes)
            parsed: list[open_inference.InferRequest] = []

            def inputs(max_pixels: int) -> Array:
                parsed[:] = [
                    open_inference.parse_infer(
                        content, length, interface, settings.max_request_rows
                    )
                ]
                return parsed[0].inputs(interface, max_pixels)

            def again(other: LoadedVersion) -> Array:
                request = open_inference.parse_infer(
                    content, length, other.interface, settings.max_request_rows
                )
                return request.inputs(other.interface, settings.max_request_pixels)

            num_bytes = len(content) if length is None else len(content) // _BINARY_GAIN
            await slot.start_computing()
            values_BK = await self._compute(
                asked, loaded, await self._inputs(loaded, inputs, num_bytes)
            )
            answer = await self._work(
                values_BK, lambda: _infer_answer(parsed[0], values_BK, loaded)
            )
        finally:
            slot.release()
        asked.rows = len(values_BK)
        self.service.mirror(loaded, asked.key, again, values_BK)
        return answer

    async def _inputs(
        self, loaded: LoadedVersion, inputs: Callable[[int], Array], num_bytes: int
    ) -> Array:
        """The network's inputs from a request; a long job is done in a thread. A small file may be a large image."""
        max_pixels = loaded.settings.max_request_pixels
        try:
            if num_bytes <= _SMALL_BODY_BYTES:
                with contextlib.suppress(TooManyPixelsError):
                    return inputs(min(_FEW_PIXELS, max_pixels))
            return await self.service.work(lambda: inputs(max_pixels))
        except RecursionError as error:
            raise RequestError(
                400, "the body has lists or objects that lie too deep in each other"
            ) from error

    async def _compute(self, asked: Request, loaded: LoadedVersion, x: Array) -> Array:
        """As `Service.compute`; what takes long is not begun for a client that has gone. Raises ClientDisconnect."""
        if loaded.batcher.runs_inline:
            return await self.service.compute(loaded, x)
        # Only here: to watch a client costs more than a short forward pass.
        work = asyncio.ensure_future(self.service.compute(loaded, x))
        gone = asyncio.ensure_future(asked.receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and gone.result()["type"] == "http.disconnect":
                raise ClientDisconnect
            return await work
        finally:
            work.cancel()
            gone.cancel()

    async def _work(self, values_BK: Array, answer: Callable[[], Response]) -> Response:
        return answer() if values_BK.size <= _FEW_SCORES else await self.service.work(answer)


def _predictions(values_BK: Array, loaded: LoadedVersion) -> Response:
    predictions = loaded.interface.features.answers(values_BK)
    return answer_json(
        {"predictions": predictions, "model": loaded.settings.model, "version": loaded.version}
    )


def _infer_answer(
    request: open_inference.InferRequest, values_BK: Array, loaded: LoadedVersion
) -> Response:
    model, version = loaded.settings.model, loaded.version
    content, json_bytes = open_inference.infer_answer(
        request, values_BK, loaded.interface, model, version
    )
    if json_bytes is None:
        return EncodedResponse(200, content)
    return EncodedResponse(
        200, content, predict_body.RAW.encode(), [(_JSON_BYTES, b"%d" % json_bytes)]
    )


def _metadata(loaded: LoadedVersion) -> dict[str, Any]:
    parameters = {
        "alias": loaded.settings.alias,
        "digest": f"sha256:{loaded.bundle.digest}",
        "task": loaded.bundle.features.signature.task,
        "compute": loaded.bundle.compute,
        **model_facts.of_model(loaded.bundle, loaded.source),
    }
    metadata = open_inference.model_metadata(
        loaded.settings.model, loaded.version, loaded.interface, parameters
    )
    known = model_facts.of_inputs(loaded.bundle)
    inputs = [
        {**one, "parameters": {**one["parameters"], **known[one["name"]]}}
        for one in metadata["inputs"]
    ]
    return {**metadata, "inputs": inputs}


def _require(loaded: LoadedVersion | None) -> LoadedVersion:
    if loaded is None:
        raise RequestError(503, "no model is ready yet", {"retry-after": "1"})
    return loaded


def _too_late(timeout_s: float | None, loaded: LoadedVersion | None) -> str:
    is_ours = loaded is not None and timeout_s == loaded.settings.request_timeout_s
    return f"no answer within {'request_timeout_s' if is_ours else _TIMEOUT.decode()} = {timeout_s or 0.0:g} s"


def _timeout_s(asked: Request, longest_s: float) -> float:
    """The time that a request may take: less where the client says that it will not wait for longer."""
    given = asked.headers.get(_TIMEOUT)
    if given is None:
        return longest_s
    try:
        wanted_s = float(given)
    except ValueError:
        return longest_s
    # Where Ray Serve stands between, it reads the header as well and would answer in plain text: this comes earlier.
    return min(longest_s, wanted_s * 0.95) if wanted_s > 0 else longest_s
