"""Retry decisions of the client: which failures are tried again, and when. No socket, no sleep.

A prediction changes nothing on the endpoint, so it is safe to repeat. An attempt without an answer
is tried again: no connection, a broken connection, or too long a wait. So are temporary refusals:
429 and 503 of raydc, and those that only a proxy in front of it gives (502, 504, and 404, 408 or
500 whose body is not JSON: it has no routes yet, or it lost its replica). All other refusals of
raydc would be the same again.

Delays are drawn from 0 to a limit that doubles ("full jitter": M. Brooker, Exponential Backoff And
Jitter, 2015), so that many clients of a failed replica do not come back at the same moment.
"""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from raydc.client.replies import Reply
from raydc.errors import RefusedError, UnavailableError

# Enough that the default time limit of a call is reached first: a proxy or a replica needs seconds
# to restart, on a busy machine twenty.
MAX_RETRIES = 60
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 2.0
# A host that vanished does not refuse connections, and would use up the whole call otherwise.
CONNECT_TIMEOUT_S = 5.0
# Connections kept for reuse, and so the most that can turn out closed one after the other.
MAX_IDLE_CONNECTIONS = 20

# Less time than this cannot carry a request.
_MIN_ATTEMPT_S = 0.001
_TEMPORARY = (429, 502, 503, 504)
_TEMPORARY_FROM_PROXY = (404, 408, 500)
_HINTS = {
    401: "Give a token (token=..., --token or RAYDC_TOKEN) that the endpoint knows.",
    403: "This token lacks the right; use one that has it.",
    413: "Send fewer rows or a smaller image, or raise serve.max_request_bytes.",
}

# Replaced in tests.
monotonic = time.monotonic
uniform = random.uniform


class Call:
    """The deadline and the attempts of one call. Its clock starts when it is made.

    Args:
        target: URL of the request, for error messages.
        request_id: Id of the request, the same for all attempts.
        timeout_s: Time limit for everything, delays included.
        max_retries: Attempts after the first.
        attempt_timeout_s: Time limit of an attempt; None means the rest of the call.
    """

    def __init__(
        self,
        target: str,
        request_id: str,
        timeout_s: float,
        max_retries: int,
        attempt_timeout_s: float | None = None,
    ) -> None:
        self.target = target
        self.request_id = request_id
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.attempt_timeout_s = attempt_timeout_s
        self._deadline = monotonic() + timeout_s
        self._attempt_end = self._deadline
        self._num_attempts = 0
        self._num_closed = 0
        self._last: tuple[str, int | None, str | None] = (
            "no time for an attempt",
            None,
            "Give a larger timeout_s.",
        )

    def start_attempt(self) -> None:
        """Starts the clock of an attempt.

        Raises:
            UnavailableError: The time of the call is over.
        """
        if self._deadline - monotonic() < _MIN_ATTEMPT_S:
            raise self._unavailable(*self._last)
        self._num_attempts += 1
        limit_s = self.attempt_timeout_s
        self._attempt_end = (
            self._deadline if limit_s is None else min(self._deadline, monotonic() + limit_s)
        )

    def attempt_left_s(self) -> float:
        """Returns the seconds that the attempt may still take, at least 0."""
        return max(0.0, self._attempt_end - monotonic())

    def delay_after_closed_connection(self, reason: str) -> float:
        """Handles a reused connection that turned out to be closed: retries at once, uncounted.

        Args:
            reason: Text of the error, for messages.

        Returns:
            Seconds until the next attempt.

        Raises:
            UnavailableError: More were closed than can have been idle, and no attempt is left.
        """
        if self._num_closed >= MAX_IDLE_CONNECTIONS:
            return self.delay_after_failure(reason)
        self._num_closed += 1
        # Undoes the count of `start_attempt`: the server never saw this attempt.
        self._num_attempts -= 1
        return 0.0

    def delay_after_failure(self, reason: str, hint: str | None = None) -> float:
        """Handles an attempt without an answer.

        Args:
            reason: Text of the error, for messages.
            hint: Advice for the user; None means how to start an endpoint.

        Returns:
            Seconds until the next attempt.

        Raises:
            UnavailableError: There is no time or no attempt left.
        """
        return self._delay(
            reason, 0.0, None, hint or "Is the endpoint up? `raydc serve spec.yaml` starts it."
        )

    def delay_after_refusal(self, reply: Reply) -> float:
        """Handles a reply other than 200.

        Args:
            reply: Reply whose status, `retry-after` and error text decide what follows.

        Returns:
            Seconds until the next attempt.

        Raises:
            RefusedError: Another attempt would be refused as well.
            UnavailableError: There is no time or no attempt left.
        """
        reason = _reason(reply)
        if not is_temporary(reply):
            raise RefusedError(
                f"{self.target} answered {reply.status}: {reason} (request {reply.request_id})",
                _hint(reply),
                status=reply.status,
                request_id=reply.request_id,
            )
        hint = (
            "The endpoint is busy: send fewer requests, or give it more replicas."
            if reply.status == 429
            else None
        )
        return self._delay(f"{reply.status}: {reason}", retry_after_s(reply), reply.status, hint)

    def _delay(self, reason: str, wanted_s: float, status: int | None, hint: str | None) -> float:
        self._last = (reason, status, hint)
        left_s = self._deadline - monotonic()
        if self._num_attempts > self.max_retries:
            raise self._unavailable(reason, status, hint)
        if left_s <= 0 or wanted_s >= left_s:
            # Fails now: a wait that ends after the deadline would only delay the same error.
            wait = f"; the endpoint asks to wait {wanted_s:g} s" if wanted_s > 0 else ""
            raise self._unavailable(reason + wait, status, hint)
        # The exponent is limited, because 2.0 ** 1024 overflows.
        limit_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._num_attempts - 1, 16))
        return wanted_s + uniform(0.0, min(limit_s, left_s - wanted_s))

    def _unavailable(self, reason: str, status: int | None, hint: str | None) -> UnavailableError:
        attempts = "1 attempt" if self._num_attempts == 1 else f"{self._num_attempts} attempts"
        return UnavailableError(
            f"no answer from {self.target} within {self.timeout_s:g} s and {attempts}: {reason} "
            f"(request {self.request_id})",
            hint,
            status=status,
            request_id=self.request_id,
        )


def is_temporary(reply: Reply) -> bool:
    """Tells whether the same request may succeed later."""
    return reply.status in _TEMPORARY or (
        reply.status in _TEMPORARY_FROM_PROXY and not _is_json(reply)
    )


def retry_after_s(reply: Reply) -> float:
    """Reads the header Retry-After, a number of seconds or a date; 0 without one."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone.
        return 0.0


def _is_json(reply: Reply) -> bool:
    # Errors of raydc are JSON objects; those of proxies are text or HTML.
    return reply.body.lstrip().startswith(b"{")


def _reason(reply: Reply) -> str:
    try:
        error = json.loads(reply.body)["error"]
        # OpenAI's format has an object there.
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return reply.body[:200].decode(errors="replace").strip() or "no reason given"


def _hint(reply: Reply) -> str | None:
    if 300 <= reply.status < 400:
        location = reply.headers.get("location", "another address")
        return f"The endpoint is at {location}; use that address."
    return _HINTS.get(reply.status)
