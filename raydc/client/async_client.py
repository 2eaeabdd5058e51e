"""The asynchronous client, for code with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from raydc.client import operations, transport
from raydc.client.endpoint_client import EndpointClient
from raydc.client.replies import Answer, Metadata, Reply, Tensors
from raydc.client.retry import Call
from raydc.errors import RaydcError

T = TypeVar("T")

# Replaced in tests.
sleep = asyncio.sleep


class AsyncClient(EndpointClient[httpx.AsyncClient]):
    """A connection to one endpoint; may be shared by the tasks of one event loop.

    Example:
        >>> async with AsyncClient("http://127.0.0.1:8000") as client:
        ...     answer = await client.predict([{"age": 41, "job": "nurse"}])

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`, with its path if it has one.
        model: Name of the model, for `infer` and `metadata`. Default: the endpoint's model.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        key: While a canary runs, requests with the same key are answered by the same version.
        timeout_s: Time limit of one call, with all its attempts and the delays between them.
        max_retries: Attempts after the first.
        attempt_timeout_s: Time limit of one attempt. Default: the rest of `timeout_s`.
        tls: Trusted certificates. Default: those of the machine, or of SSL_CERT_FILE.

    Raises:
        UsageError: `url` is not an address, or a header cannot carry the token or the key.
    """

    def _open(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    # The methods that follow are documented in EndpointClient.

    async def predict(
        self,
        rows: Sequence[operations.Row] | None = None,
        image: operations.ImageInput | None = None,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Answer:
        return await self.run(operations.predict(rows, image), timeout_s, request_id=request_id)

    async def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Tensors:
        operation = operations.infer(await self.model(), version, inputs, outputs)
        return await self.run(operation, timeout_s, request_id=request_id)

    async def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        return await self.run(operations.metadata(await self.model()), timeout_s)

    async def ready(self, timeout_s: float = 5.0) -> bool:
        try:
            # One attempt: a caller that polls wants the current state, not one after retries.
            await self.run(operations.ready(), timeout_s, max_retries=0)
        except RaydcError:
            return False
        return True

    async def model(self) -> str:
        """Name of the model; the first call may send a request, which raises as `metadata` does."""
        if self._model is None:
            self._model = await self.run(operations.model_name())
        return self._model

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def run(
        self,
        operation: operations.Operation[T],
        timeout_s: float | None = None,
        max_retries: int | None = None,
        request_id: str | None = None,
    ) -> T:
        call = self._target.start_call(operation, timeout_s, max_retries, request_id)
        return operation.read(await self._send(operation, call))

    async def _send(self, operation: operations.Operation[Any], call: Call) -> Reply:
        """Makes attempts until one succeeds or `call` raises."""
        while True:
            call.start_attempt()
            trace = transport.AttemptTrace(call)
            try:
                # httpx limits the wait for each chunk of an answer only; this limits the attempt.
                async with asyncio.timeout(call.attempt_left_s()):
                    request = self._target.build_request(
                        operation, call, trace, trace.on_event_async
                    )
                    response = await self._http.send(request)
            except (httpx.RequestError, TimeoutError) as error:
                delay_s = transport.delay_after(call, error, trace)
            else:
                reply = transport.make_reply(response, response.content, call)
                if reply.status == 200:
                    return reply
                delay_s = call.delay_after_refusal(reply)
            await sleep(delay_s)
