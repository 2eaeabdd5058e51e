"""The common part of `Client` and `AsyncClient`: arguments and documentation. Runs in any process.

Each method is documented here once; the two classes differ in `await` only.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from raydc.client import operations, transport
from raydc.client.replies import Answer, Metadata, Tensors
from raydc.client.retry import MAX_RETRIES

T = TypeVar("T")
Http = TypeVar("Http")


class EndpointClient(ABC, Generic[Http]):
    """A connection to one endpoint of raydc.

    Calls are retried while that is safe: after refused or broken connections, after 429 and 503,
    and after errors that only a proxy gives. Connections are kept until the client is closed.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`, with its path if it has one.
        model: Name of the model, for `infer` and `metadata`. Default: the endpoint's model, found
            out by one request.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        key: Any text, such as the id of a user. While a canary runs, requests with the same key
            are answered by the same version. Default: no key, each request is drawn anew.
        timeout_s: Time limit of one call, with all its attempts and the delays between them.
        max_retries: Attempts after the first.
        attempt_timeout_s: Time limit of one attempt, so that a replica that hangs does not use up
            `timeout_s`. Default: no limit other than that.
        tls: Trusted certificates. Default: those of the machine, or of SSL_CERT_FILE.

    Raises:
        UsageError: `url` is not an address, or a header cannot carry the token or the key.
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
        self._target = transport.make_target(
            url, token, key, timeout_s, max_retries, attempt_timeout_s, tls
        )
        self._model = model
        self._http = self._open(**self._target.http_options())

    @abstractmethod
    def _open(self, **options: Any) -> Http:
        """Makes the client of httpx that holds the connections."""

    @abstractmethod
    def predict(
        self,
        rows: Sequence[operations.Row] | None = None,
        image: operations.ImageInput | None = None,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Answer | Awaitable[Answer]:
        """Predicts raw rows, or one image.

        Example:
            >>> answer = client.predict([{"age": 41, "job": "nurse"}])
            >>> answer.predictions[0].label, answer.version
            ('yes', '3')

        Args:
            rows: Rows as mappings from column to value, as in the data set; None or a missing
                column is a missing value, which the endpoint refuses for a column that no
                training row lacked. Give either `rows` or `image`.
            image: Content or path of an image file, or pixels: uint8 [H, W] or [H, W, 3].
            timeout_s: Time limit of this call. Default: the client's.
            request_id: Id of the request in the endpoint's access log. Default: a random one.

        Returns:
            One prediction for each row, and the version that made them.

        Raises:
            UsageError: The rows or the image cannot be sent.
            RefusedError: The endpoint refuses the request; the message says why.
            UnavailableError: There is no answer within the time limit or the attempts.
            ServeError: The answer is not one of raydc.
        """

    @abstractmethod
    def infer(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Tensors | Awaitable[Tensors]:
        """Predicts arrays by the Open Inference Protocol v2, in its binary form both ways.

        Example:
            >>> client.infer({"image": np.zeros((32, 28, 28), np.uint8)}).outputs["scores"].shape
            (32, 10)

        Args:
            inputs: An array for each raw column: [B], or for images uint8 [B, H, W] or
                [B, H, W, C]. Anything that numpy converts to such an array.
            outputs: Names of the outputs to return. Default: all.
            version: Version that must answer; the call fails if it is not served. Default: any.
            timeout_s: Time limit of this call. Default: the client's.
            request_id: Id of the request in the endpoint's access log. Default: a random one.

        Returns:
            The outputs by name, [B, ...], and the version that made them.

        Raises:
            UsageError: An input is not an array of a type that the protocol has.
            RefusedError: The endpoint refuses the request; the message says why.
            UnavailableError: There is no answer within the time limit or the attempts.
            ServeError: The answer is not one of the protocol.
        """

    @abstractmethod
    def metadata(self, *, timeout_s: float | None = None) -> Metadata | Awaitable[Metadata]:
        """Describes the model: inputs, outputs, versions and what it was trained on.

        Args:
            timeout_s: Time limit of this call. Default: the client's.

        Raises:
            RefusedError: The endpoint refuses the request; the message says why.
            UnavailableError: There is no answer within the time limit or the attempts.
            ServeError: The answer is not one of the protocol.
        """

    @abstractmethod
    def ready(self, timeout_s: float = 5.0) -> bool | Awaitable[bool]:
        """Tells whether the endpoint answers now; tries once and does not raise RaydcError.

        Args:
            timeout_s: Time after which the answer counts as no.
        """

    @abstractmethod
    def run(
        self,
        operation: operations.Operation[T],
        timeout_s: float | None = None,
        max_retries: int | None = None,
        request_id: str | None = None,
    ) -> T | Awaitable[T]:
        """Sends any operation of `raydc.client.operations`.

        Args:
            operation: The request, and how its reply is read.
            timeout_s: Time limit of this call. Default: the client's.
            max_retries: Attempts of this call after the first. Default: the client's.
            request_id: Id of the request in the endpoint's access log. Default: a random one.

        Raises:
            RefusedError: The endpoint refuses the request; the message says why.
            UnavailableError: There is no answer within the time limit or the attempts.
            ServeError: The reply is not what the operation reads.
        """

    def __repr__(self) -> str:
        # Without the token, which would end up in logs.
        return f"{type(self).__name__}({self._target.url!r})"
