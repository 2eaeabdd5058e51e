"""The blocking client, for code without an event loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
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
sleep = time.sleep


class Client(EndpointClient[httpx.Client]):
    """A blocking connection to one endpoint; may be shared by threads.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:
        ...     answer = client.predict([{"age": 41, "job": "nurse"}])

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

    def _open(self, **options: Any) -> httpx.Client:
        return httpx.Client(**options)

    # The methods that follow are documented in EndpointClient.

    def predict(
        self,
        rows: Sequence[operations.Row] | None = None,
        image: operations.ImageInput | None = None,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Answer:
        return self.run(operations.predict(rows, image), timeout_s, request_id=request_id)

    def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Tensors:
        operation = operations.infer(self.model, version, inputs, outputs)
        return self.run(operation, timeout_s, request_id=request_id)

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        return self.run(operations.metadata(self.model), timeout_s)

    def ready(self, timeout_s: float = 5.0) -> bool:
        try:
            # One attempt: a caller that polls wants the current state, not one after retries.
            self.run(operations.ready(), timeout_s, max_retries=0)
        except RaydcError:
            return False
        return True

    @property
    def model(self) -> str:
        """Name of the model; the first use may send a request, which raises as `metadata` does."""
        if self._model is None:
            self._model = self.run(operations.model_name())
        return self._model

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        operation: operations.Operation[T],
        timeout_s: float | None = None,
        max_retries: int | None = None,
        request_id: str | None = None,
    ) -> T:
        # The request is already encoded: the time limit covers only sending, waiting and delays.
        call = self._target.start_call(operation, timeout_s, max_retries, request_id)
        return operation.read(self._send(operation, call))

    def _send(self, operation: operations.Operation[Any], call: Call) -> Reply:
        """Makes attempts until one succeeds or `call` raises."""
        while True:
            call.start_attempt()
            trace = transport.AttemptTrace(call)
            try:
                request = self._target.build_request(operation, call, trace, trace.on_event)
                # Streamed, so that the deadline can be checked between two chunks.
                response = self._http.send(request, stream=True)
                with contextlib.closing(response):
                    body = b"".join(_chunks_in_time(response, call))
                    reply = transport.make_reply(response, body, call)
            except httpx.RequestError as error:
                delay_s = transport.delay_after(call, error, trace)
            else:
                if reply.status == 200:
                    return reply
                delay_s = call.delay_after_refusal(reply)
            sleep(delay_s)


def _chunks_in_time(response: httpx.Response, call: Call) -> Iterator[bytes]:
    """Yields the body while the attempt has time: httpx limits the wait for each chunk only."""
    for chunk in response.iter_bytes():
        if call.attempt_left_s() <= 0:
            raise httpx.ReadTimeout("timed out")
        yield chunk
