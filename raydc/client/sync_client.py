"""The client for code that waits."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from raydc.client import operations, transport
from raydc.client.replies import Answer, Metadata, Reply, Tensors
from raydc.client.retry import MAX_RETRIES, Call
from raydc.errors import RaydcError

T = TypeVar("T")

# Replaced in tests.
sleep = time.sleep


class Client:
    """Asks one endpoint. May be shared by threads; keeps its connections until it is closed.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        model: The model, for `infer` and `metadata`. Default: the endpoint is asked.
        token: Access token. Default: the variable RAYDC_TOKEN.
        key: Requests with the same key are answered by the same version while there is a canary.
        timeout_s: For a call, with all its attempts and the delays between them.
        max_retries: Attempts after the first.
        attempt_timeout_s: For one attempt, so that a replica that hangs does not take all of the time. Default: none.
        tls: Which certificates are trusted. Default: those of the machine, or of SSL_CERT_FILE.

    Raises:
        UsageError: An address that is none, or a token that no header can carry.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token: str | None = None,
        key: str | None = None,
        timeout_s: float = 30.0,
        max_retries: int = MAX_RETRIES,
        attempt_timeout_s: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = transport.target(
            url, token, key, timeout_s, max_retries, attempt_timeout_s, tls
        )
        self._model = model
        self._http = httpx.Client(**self._target.options())

    def predict(
        self,
        rows: Sequence[operations.Row] | None = None,
        image: operations.Picture | None = None,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Answer:
        """Predictions for raw rows, or for one image.

        Args:
            rows: Columns by name, as in the data set; None where a value is missing. Or
            image: An encoded image, the path of one, or pixels: uint8 [H, W] or [H, W, 3].
            timeout_s: Instead of the client's.
            request_id: Found again in the log of the endpoint. Default: a random one.

        Raises:
            UsageError: What was given cannot be sent.
            RefusedError: The endpoint refuses it and says why.
            UnavailableError: No answer in time.
        """
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
        """The Open Inference Protocol with arrays, sent and received in binary.

        Args:
            inputs: One array for each raw column, [B] or for images uint8 [B, H, W] or [B, H, W, C].
            outputs: Names of those that are wanted. Default: all.
            version: Refused by an endpoint that serves another. Default: any.
            timeout_s: Instead of the client's.
            request_id: As of `predict`.

        Raises:
            As `predict`.
        """
        return self.run(
            operations.infer(self.model, version, inputs, outputs), timeout_s, request_id=request_id
        )

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What the model takes and gives, and which versions there are. Raises as `predict`."""
        return self.run(operations.metadata(self.model), timeout_s)

    def ready(self, timeout_s: float = 5.0) -> bool:
        """Whether the endpoint answers now. Asks once."""
        try:
            self.run(operations.ready(), timeout_s, max_retries=0)
        except RaydcError:
            return False
        return True

    @property
    def model(self) -> str:
        """Name of the model; the endpoint is asked for it once. Raises as `predict`."""
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

    def __repr__(self) -> str:
        return f"Client({self._target.url!r})"

    def run(
        self,
        ask: operations.Operation[T],
        timeout_s: float | None = None,
        max_retries: int | None = None,
        request_id: str | None = None,
    ) -> T:
        """Any request of `raydc.client.operations`. Raises as `predict`."""
        return ask.read(self._send(ask, self._target.call(ask, timeout_s, max_retries, request_id)))

    def _send(self, ask: operations.Operation[Any], call: Call) -> Reply:
        """Attempts, until one succeeds or `call` raises."""
        while True:
            call.begin()
            trace = transport.ConnectionTrace()
            try:
                response = self._http.send(self._target.request(ask, call, trace.note), stream=True)
                with contextlib.closing(response):
                    reply = transport.reply_of(response, b"".join(_chunks(response, call)), call)
            except httpx.RequestError as error:
                delay_s = transport.delay_after(call, error, trace)
            else:
                if reply.status == 200:
                    return reply
                delay_s = call.after_refusal(reply)
            sleep(delay_s)


def _chunks(response: httpx.Response, call: Call) -> Iterator[bytes]:
    """The body, as long as the attempt has time: httpx limits only the wait for each piece."""
    for chunk in response.iter_bytes():
        if call.attempt_left_s() <= 0:
            raise httpx.ReadTimeout("timed out")
        yield chunk
