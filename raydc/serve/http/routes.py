"""Routes of an endpoint: which path does what, what is refused, how errors look. In the replica.

Every error is JSON `{"error": ..., "request_id": ...}`; a client never sees a stack trace.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.errors import DataError, TooManyPixelsError
from raydc.serve.http import page
from raydc.serve.http.completions import CompletionHandler
from raydc.serve.http.prediction import PredictionHandler
from raydc.serve.http.request import (
    CLIENT_CLOSED,
    OPENAI,
    Request,
    error_response,
    json_response,
)
from raydc.serve.protocol import binary, model_facts, open_inference, openapi
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.alias_reader import AliasReader
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.replica.service import Service
from raydc.serve.replica.text_engine import TextEngine

logger = logging.getLogger("ray.serve")

# Ray Serve's own header, which its clients know.
_TIMEOUT = b"x-request-timeout-seconds"
# If Ray Serve's proxy is in between, it reads the header too and would answer in plain text: this
# fraction of the time makes raydc's answer come first.
_TIMEOUT_FRACTION = 0.95

PATHS = (
    "GET /",
    "GET /docs",
    "GET /openapi.json",
    "GET /healthz",
    "GET /ping",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model}[/versions/{version}]",
    "GET /v2/models/{model}[/versions/{version}]/ready",
)
# Of a model that predicts rows, and of one that continues texts.
ROW_PATHS = (
    "POST /predict",
    "POST /invocations",
    "POST /v2/models/{model}[/versions/{version}]/infer",
)
TEXT_PATHS = (
    "GET /v1/models[/{model}]",
    "POST /v1/completions",
    "POST /v1/chat/completions",
)


class Routes:
    """The HTTP interface of a service.

    Args:
        service: Holds the versions that answer.
        version: Version of raydc, which the metadata of the server show.

    Attributes:
        answered: Number of answers by status since the replica started.
    """

    def __init__(self, service: Service, version: str) -> None:
        self.service = service
        self.version = version
        self.answered: Counter[int] = Counter()
        # Set by the replica: which path requests take, and why (`Decision.to_dict`).
        self.request_path: dict[str, Any] = {}
        self._predictions = PredictionHandler(service)
        self._completions = CompletionHandler(service)
        self._aliases = AliasReader()

    async def respond(self, request: Request) -> Response:
        """Answers any request; never raises for what a client or a model does."""
        started = time.perf_counter()
        # Chosen once: a request keeps its version even if traffic changes meanwhile.
        loaded = self._choose_version(request)
        response = await self._respond(request, loaded)
        loaded = request.answered_by or loaded
        if loaded is not None:
            response.raw_headers += loaded.answer_headers
            request.version = loaded.version
            # Canary and stable are compared by what they compute; a GET computes nothing.
            if request.method == "POST":
                self.service.tallies[loaded.number].add(
                    response.status_code, time.perf_counter() - started
                )
        self.answered[response.status_code] += 1
        return response

    def _choose_version(self, request: Request) -> LoadedVersion | None:
        """The version that the path names, if it is loaded; otherwise the version of the key."""
        segments = request.segments
        names_version = len(segments) > 4 and segments[:2] == ["v2", "models"]
        named = None
        if names_version and segments[3] == "versions":
            named = self.service.find(segments[4])
        return named or self.service.choose(request.key)

    async def _respond(self, request: Request, loaded: LoadedVersion | None) -> Response:
        timeout_s = _timeout_s(request, loaded.settings.request_timeout_s) if loaded else None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await self._dispatch(request, loaded)
        except RequestError as error:
            return error_response(request, error)
        except DataError as error:
            status = 413 if isinstance(error, TooManyPixelsError) else 422
            message = f"{error.message}. {error.hint}" if error.hint else error.message
            return error_response(request, RequestError(status, message))
        except ClientDisconnect:
            # No client reads this answer; it is for the counts and the log.
            return error_response(request, RequestError(CLIENT_CLOSED, "the client went away"))
        except Exception as error:  # The last place where an error can become an answer.
            # A TimeoutError may also be the model's own, which is a failure.
            if isinstance(error, TimeoutError) and deadline.expired():
                return error_response(request, RequestError(408, _too_late(timeout_s, loaded)))
            logger.exception("request %s failed", request.id)
            message = "the model failed on this request; the replica's log says why"
            return error_response(request, RequestError(500, message))

    async def _dispatch(self, request: Request, loaded: LoadedVersion | None) -> Response:
        match request.segments:
            # The two that carry load come first.
            case ["predict"] | ["invocations"]:
                request.require_method("POST")
                return await self._predictions.predict(request, _require_rows(loaded))
            case [first, *rest] if first == OPENAI:
                return await self._completions.answer(request, _require(loaded), rest)
            case ["v2", "models", model, *rest]:
                return await self._answer_model(request, _require(loaded), model, rest)
            case ["healthz"] | ["ping"]:
                request.require_method("GET")
                ready = _require(loaded)
                return json_response(
                    {"status": "ok", "model": ready.settings.model, "version": ready.version}
                )
            case ["v2"]:
                request.require_method("GET")
                return json_response(
                    {"name": "raydc", "version": self.version, "extensions": [binary.EXTENSION]}
                )
            case ["v2", "health", "live"]:
                request.require_method("GET")
                return json_response({"live": True})
            case ["v2", "health", "ready"]:
                request.require_method("GET")
                _require(loaded)
                return json_response({"ready": True})
            case ["openapi.json"]:
                request.require_method("GET")
                return json_response(self._document(_require(loaded)))
            case ["docs"]:
                request.require_method("GET")
                # Web frameworks describe their interface here, so people try this path.
                return Response(status_code=307, headers={"location": "openapi.json"})
        if (file := page.serve_file(request)) is not None:
            return file
        raise _not_found(request, loaded)

    def _document(self, loaded: LoadedVersion) -> dict[str, Any]:
        settings = loaded.settings
        return openapi.build_document(
            settings.model,
            loaded.version,
            loaded.interface,
            settings,
            self.version,
            loaded.embedder is not None,
        )

    async def _answer_model(
        self, request: Request, loaded: LoadedVersion, model: str, rest: list[str]
    ) -> Response:
        """Answers below `/v2/models/`; `rest` are the segments after the model's name."""
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
                request.require_method("POST")
                return await self._predictions.infer(request, _require_rows(loaded))
            case []:
                request.require_method("GET")
                alias_version = await self._aliases.read_version(loaded.settings)
                return json_response(_metadata(loaded, self.request_path, alias_version))
            case ["ready"]:
                request.require_method("GET")
                return json_response({"name": model, "ready": True})
        raise _not_found(request, loaded)


def _not_found(request: Request, loaded: LoadedVersion | None) -> RequestError:
    path = request.scope["path"][:200]
    is_language = loaded is not None and loaded.engine is not None
    known = PATHS + (TEXT_PATHS if is_language else ROW_PATHS)
    return RequestError(404, f"no path {path}; known paths: {', '.join(known)}")


def _metadata(
    loaded: LoadedVersion, request_path: dict[str, Any], alias_version: int | None
) -> dict[str, Any]:
    """The model's metadata with all facts: of the model, of each input, and of this replica."""
    parameters = {
        "alias": loaded.settings.alias,
        # It differs from the version that answers for canaries, and after a promote that was
        # killed.
        **({} if alias_version is None else {"alias_version": str(alias_version)}),
        "digest": f"sha256:{loaded.bundle.digest}",
        "task": loaded.bundle.features.signature.task,
        "compute": loaded.bundle.compute,
        "answer": loaded.answer,
        **({} if loaded.engine is None else _describe_engine(loaded.engine)),
        **({"request_path": request_path} if request_path else {}),
        **model_facts.describe_model(loaded.bundle, loaded.source),
    }
    metadata = open_inference.model_metadata(
        loaded.settings.model, loaded.version, loaded.interface, parameters
    )
    facts = model_facts.describe_inputs(loaded.bundle)
    # Copies: the interface caches its inputs and shares them between requests.
    inputs = [
        {**one, "parameters": {**one["parameters"], **facts[one["name"]]}}
        for one in metadata["inputs"]
    ]
    return {**metadata, "inputs": inputs}


def _describe_engine(engine: TextEngine) -> dict[str, Any]:
    return {"max_tokens": engine.max_tokens, "chat": engine.prompts.talk is not None}


def _require(loaded: LoadedVersion | None) -> LoadedVersion:
    if loaded is None:
        raise RequestError(503, "no model is ready yet", {"retry-after": "1"})
    return loaded


def _require_rows(loaded: LoadedVersion | None) -> LoadedVersion:
    """Raises RequestError 404 for a language model, which predicts no rows."""
    found = _require(loaded)
    if found.engine is not None:
        raise RequestError(
            404, f"{found.settings.model!r} is a language model; it answers at /v1/completions"
        )
    return found


def _too_late(timeout_s: float | None, loaded: LoadedVersion | None) -> str:
    """Message that names whose limit ended the request: the endpoint's or the client's."""
    is_ours = loaded is not None and timeout_s == loaded.settings.request_timeout_s
    setting = "request_timeout_s" if is_ours else _TIMEOUT.decode()
    return f"no answer within {setting} = {timeout_s or 0.0:g} s"


def _timeout_s(request: Request, longest_s: float) -> float:
    """Seconds that a request may take; a client may shorten its time, not lengthen it."""
    given = request.headers.get(_TIMEOUT)
    if given is None:
        return longest_s
    try:
        wanted_s = float(given)
    except ValueError:
        return longest_s
    # Zero, negative values and NaN are ignored; infinity is cut to the limit.
    return min(longest_s, wanted_s * _TIMEOUT_FRACTION) if wanted_s > 0 else longest_s
