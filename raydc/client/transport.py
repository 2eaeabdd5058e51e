"""What both clients share on top of httpx: targets, requests, time limits, errors."""

from __future__ import annotations

import os
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from raydc.client.operations import Operation
from raydc.client.replies import Reply
from raydc.client.retry import CONNECT_TIMEOUT_S, MAX_IDLE_CONNECTIONS, Call
from raydc.errors import UnavailableError, UsageError

_EXAMPLE = "Example: http://127.0.0.1:8000"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Errors of a connection that broke before the whole answer arrived.
_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Target:
    """An endpoint, with the defaults of its calls.

    Attributes:
        url: Its address, without a slash at the end.
        headers: Headers of every request.
        timeout_s: Time limit of a call, with all its attempts and the delays between them.
        max_retries: Attempts after the first.
        attempt_timeout_s: Time limit of an attempt; None means the rest of the call.
        tls: Trusted certificates; None means those of the machine.
    """

    url: str
    headers: dict[str, str]
    timeout_s: float
    max_retries: int
    attempt_timeout_s: float | None
    tls: ssl.SSLContext | None

    def http_options(self) -> dict[str, Any]:
        """Arguments of `httpx.Client` and `httpx.AsyncClient`."""
        url = httpx.URL(self.url)
        return {
            # False for plain HTTP, because certificates take a tenth of a second to load.
            "verify": (self.tls or True) if url.scheme == "https" else False,
            "limits": httpx.Limits(
                max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS
            ),
            # HTTPS_PROXY and the like would send requests for this machine to another one.
            "trust_env": url.host not in _LOOPBACK,
        }

    def start_call(
        self,
        operation: Operation[Any],
        timeout_s: float | None,
        max_retries: int | None,
        request_id: str | None,
    ) -> Call:
        """Starts the clock of a call.

        Args:
            operation: Request whose path completes the address of the target.
            timeout_s: Time limit; None means the target's.
            max_retries: Attempts after the first; None means the target's.
            request_id: Id of the request; None draws one.
        """
        return Call(
            self.url + operation.path,
            request_id or uuid.uuid4().hex,
            self.timeout_s if timeout_s is None else timeout_s,
            self.max_retries if max_retries is None else max_retries,
            self.attempt_timeout_s,
        )

    def build_request(
        self,
        operation: Operation[Any],
        call: Call,
        trace: AttemptTrace,
        on_event: Callable[[str, Mapping[str, Any]], Any],
    ) -> httpx.Request:
        """Builds the request of one attempt.

        Args:
            operation: The request without its address.
            call: Call that the attempt belongs to; gives the request id.
            trace: Holds the time limits of the attempt.
            on_event: A method of `trace`, which httpx calls, or awaits, at each phase.
        """
        return httpx.Request(
            operation.method,
            self.url + operation.path,
            headers={**self.headers, **operation.headers, "x-request-id": call.request_id},
            content=operation.content,
            extensions={"timeout": trace.timeouts, "trace": on_event},
        )


def make_target(
    url: str,
    token: str | None,
    key: str | None,
    timeout_s: float,
    max_retries: int,
    attempt_timeout_s: float | None,
    tls: ssl.SSLContext | None,
) -> Target:
    """Checks the arguments of a client.

    Args:
        url: Address of the endpoint, with its path.
        token: Access token; None means that of RAYDC_TOKEN, if there is one.
        key: Requests with the same key stay with one version; None sends no key.
        timeout_s: Time limit of a call, with all its attempts and the delays between them.
        max_retries: Attempts after the first.
        attempt_timeout_s: Time limit of an attempt; None means the rest of the call.
        tls: Trusted certificates; None means those of the machine.

    Raises:
        UsageError: `url` is not an address, or a header cannot carry the token or the key.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"{url!r} is not an address: {error}", _EXAMPLE) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is not the address of an endpoint", _EXAMPLE)
    headers = {"accept": "application/json", "user-agent": "raydc"}
    # An empty variable counts as unset.
    token = token or os.environ.get("RAYDC_TOKEN") or None
    if token is not None:
        headers["authorization"] = f"Bearer {_require_printable(token, 'token')}"
    if key is not None:
        headers["x-raydc-key"] = _require_printable(key, "key")
    return Target(url.rstrip("/"), headers, timeout_s, max_retries, attempt_timeout_s, tls)


class AttemptTrace:
    """Follows the phases of one attempt: notes a new connection, and renews the time limits.

    Args:
        call: The call whose attempt has just started.

    Attributes:
        has_connected: The attempt opened a connection instead of reusing one.
        timeouts: Time limits in seconds, as httpx reads them when a phase starts.
    """

    def __init__(self, call: Call) -> None:
        self.has_connected = False
        self.timeouts: dict[str, float | None] = {}
        self._call = call
        self._renew_timeouts()

    def on_event(self, event: str, _: Mapping[str, Any]) -> None:
        """Called by `httpx.Client` when a phase starts or ends."""
        self.has_connected |= event.startswith("connection.connect")
        self._renew_timeouts()

    async def on_event_async(self, event: str, details: Mapping[str, Any]) -> None:
        """Awaited by `httpx.AsyncClient` when a phase starts or ends."""
        self.on_event(event, details)

    def _renew_timeouts(self) -> None:
        # A fixed limit would hold for each phase separately, and connecting, sending and receiving
        # could together take several times as long as the attempt may.
        left_s = self._call.attempt_left_s()
        limits = httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S))
        self.timeouts.update(limits.as_dict())


def delay_after(call: Call, error: Exception, trace: AttemptTrace) -> float:
    """Decides what follows a failed attempt.

    Args:
        call: Call that the attempt belongs to; counts it, and knows the time left.
        error: An error of httpx, or the TimeoutError of an attempt.
        trace: Trace of the failed attempt; says whether it reused a connection.

    Returns:
        Seconds until the next attempt.

    Raises:
        UnavailableError: There is no next attempt.
    """
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return call.delay_after_failure(
            "timed out while connecting" if isinstance(error, httpx.ConnectTimeout) else "timed out"
        )
    if isinstance(error, _BROKEN):
        # A reused connection that breaks was most likely closed while it was idle.
        if not trace.has_connected:
            return call.delay_after_closed_connection(reason)
        return call.delay_after_failure(reason)
    if isinstance(error, httpx.ConnectError) and not _is_untrusted(error):
        return call.delay_after_failure(reason)
    hint = (
        "Give the certificate of its authority: SSL_CERT_FILE, or tls=..."
        if _is_untrusted(error)
        else None
    )
    raise UnavailableError(
        f"no answer from {call.target}: {reason}", hint, request_id=call.request_id
    ) from error


def make_reply(response: httpx.Response, body: bytes, call: Call) -> Reply:
    """Converts an httpx response to a reply.

    Args:
        response: Response of httpx, for its status and headers; its own body is not touched.
        body: Body of the response, read within the time limit of the attempt.
        call: Call that it answers, for the request id if the endpoint sent none.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    # The endpoint may have given the request another id, which is the one in its log.
    request_id = headers.get("x-request-id", call.request_id)
    return Reply(response.status_code, headers, body, request_id)


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether an error comes from a certificate. httpx wraps the error of ssl several times."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _require_printable(text: str, name: str) -> str:
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        # The value is not shown: it may be a secret.
        raise UsageError(
            f"the {name} holds characters that a header cannot carry", "Give printable ASCII."
        )
    return text
