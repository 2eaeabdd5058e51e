"""Handlers of `/predict` and `/infer`, from body to answer. Run in the replica.

What takes long is done in threads, so that the event loop stays free for other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.errors import TooManyPixelsError
from raydc.features import Inputs
from raydc.serve.http.request import EncodedResponse, Request, json_response
from raydc.serve.protocol import binary, open_inference, predict_body
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import Array, LoadedVersion
from raydc.serve.replica.service import Service

# Up to these sizes a request is parsed, and an answer encoded, on the event loop. It takes about as
# long as handing it to a thread would.
_SMALL_BODY_BYTES = 16 * 1024
_FEW_PIXELS = 64 * 64
_FEW_SCORES = 2048
# Larger pictures, or those with as much work, wait for each other and for no one else. Photographs
# from most phones are smaller.
_ORDINARY_PIXELS = 16 * 1024 * 1024
# Binary tensors are copied, not parsed: this many bytes take as long as one byte of JSON.
_BINARY_BYTES_PER_JSON_BYTE = 64

_JSON_BYTES = binary.HEADER.lower().encode()


class PredictionHandler:
    """Answers requests for predictions. Raises RequestError and DataError for what it refuses."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request, loaded: LoadedVersion) -> Response:
        """Answers `/predict`."""
        settings, interface = loaded.settings, loaded.interface
        content_type = request.header(b"content-type")
        # Before the queue: a body that no model takes must not wait for a slot.
        predict_body.check_media_type(predict_body.media_type_of(content_type), interface)
        slot = await self._service.admission.admit()
        try:
            content = await slot.read(request, settings.max_request_bytes)
            query = request.scope.get("query_string", b"").decode("latin-1")
            body = predict_body.Body(content, content_type, query)

            def inputs(max_pixels: int) -> Inputs:
                return body.inputs(interface, settings.max_request_rows, max_pixels)

            # A shadow may have other features, so its inputs are computed from the body again.
            def shadow_inputs(other: LoadedVersion) -> Inputs:
                return body.inputs(
                    other.interface, settings.max_request_rows, settings.max_request_pixels
                )

            # Only now: a client that sends its body slowly must not hold a place to compute.
            await slot.start_computing()
            values_BK = await self._compute(
                request, loaded, await self._inputs(loaded, inputs, len(content))
            )
            answer = await self._encode(values_BK, lambda: _predictions(values_BK, loaded))
        finally:
            slot.release()
        request.rows = len(values_BK)
        self._service.mirror(loaded, request.key, shadow_inputs, values_BK)
        return answer

    async def infer(self, request: Request, loaded: LoadedVersion) -> Response:
        """Answers `/v2/models/{model}/infer`."""
        settings, interface = loaded.settings, loaded.interface
        media_type = predict_body.media_type_of(request.header(b"content-type"))
        length = request.header(_JSON_BYTES) if _JSON_BYTES in request.headers else None
        is_binary = media_type == predict_body.RAW and length is not None
        if media_type != predict_body.JSON and not is_binary:
            raise RequestError(
                415,
                f"content-type is {media_type[:80]!r}; send {predict_body.JSON}, "
                f"or {predict_body.RAW} with {binary.HEADER}",
            )
        slot = await self._service.admission.admit()
        try:
            content = await slot.read(request, settings.max_request_bytes)
            # Filled by `inputs`, maybe in a thread; the answer needs the request as well.
            parsed: list[open_inference.InferRequest] = []

            def parse(version: LoadedVersion) -> open_inference.InferRequest:
                return open_inference.parse_infer_request(
                    content, length, version.interface, settings.max_request_rows
                )

            def inputs(max_pixels: int) -> Inputs:
                parsed[:] = [parse(loaded)]
                return parsed[0].inputs(interface, max_pixels)

            def shadow_inputs(other: LoadedVersion) -> Inputs:
                return parse(other).inputs(other.interface, settings.max_request_pixels)

            num_bytes = len(content)
            if length is not None:
                num_bytes //= _BINARY_BYTES_PER_JSON_BYTE
            await slot.start_computing()
            values_BK = await self._compute(
                request, loaded, await self._inputs(loaded, inputs, num_bytes)
            )
            answer = await self._encode(
                values_BK, lambda: _infer_answer(parsed[0], values_BK, loaded)
            )
        finally:
            slot.release()
        request.rows = len(values_BK)
        self._service.mirror(loaded, request.key, shadow_inputs, values_BK)
        return answer

    async def _inputs(
        self, loaded: LoadedVersion, inputs: Callable[[int], Inputs], num_bytes: int
    ) -> Inputs:
        """Computes the network's inputs; in a thread if the body is long."""
        max_pixels = loaded.settings.max_request_pixels
        try:
            if num_bytes <= _SMALL_BODY_BYTES:
                # A small file may hold a large image: it stops here and is decoded in a thread.
                with contextlib.suppress(TooManyPixelsError):
                    return inputs(min(_FEW_PIXELS, max_pixels))
            if max_pixels > _ORDINARY_PIXELS:
                with contextlib.suppress(TooManyPixelsError):
                    return await self._service.run_in_thread(lambda: inputs(_ORDINARY_PIXELS))
                return await self._service.run_in_long_thread(lambda: inputs(max_pixels))
            return await self._service.run_in_thread(lambda: inputs(max_pixels))
        except RecursionError as error:
            raise RequestError(400, "the body has lists or objects nested too deep") from error

    async def _compute(self, request: Request, loaded: LoadedVersion, x: Inputs) -> Array:
        """Calls `Service.compute`, and drops a queued request whose client has gone.

        Raises:
            ClientDisconnect: The client closed its connection before the answer was ready.
        """
        if loaded.batcher.runs_inline:
            # Watching the client costs more than a short forward pass.
            return await self._service.compute(loaded, x)
        work = asyncio.ensure_future(self._service.compute(loaded, x))
        # The body is read, so the next message can only be the end of the connection.
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and gone.result()["type"] == "http.disconnect":
                raise ClientDisconnect
            return await work
        finally:
            # Also when this task is cancelled at its deadline.
            work.cancel()
            gone.cancel()

    async def _encode(self, values_BK: Array, encode: Callable[[], Response]) -> Response:
        return (
            encode() if values_BK.size <= _FEW_SCORES else await self._service.run_in_thread(encode)
        )


def _predictions(values_BK: Array, loaded: LoadedVersion) -> Response:
    predictions = loaded.interface.features.answers(values_BK)
    return json_response(
        {"predictions": predictions, "model": loaded.settings.model, "version": loaded.version}
    )


def _infer_answer(
    request: open_inference.InferRequest, values_BK: Array, loaded: LoadedVersion
) -> Response:
    content, json_bytes = open_inference.encode_infer_answer(
        request, values_BK, loaded.interface, loaded.settings.model, loaded.version
    )
    if json_bytes is None:
        return EncodedResponse(200, content)
    return EncodedResponse(
        200, content, predict_body.RAW.encode(), [(_JSON_BYTES, b"%d" % json_bytes)]
    )
