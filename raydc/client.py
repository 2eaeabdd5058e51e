"""Asks an endpoint. Uses the standard library only, so that it can be lifted out of raydc.

Errors that pass are retried (no connection, 429, 502, 503, and the 404 of a proxy that has no routes yet), all
within one deadline.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from raydc.errors import ServeError, UsageError

_MAX_ATTEMPTS = 6
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 2.0
_PASSING_STATUS = (429, 502, 503)
_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"BM": "image/bmp"}


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    retry_after_s: float | None

    @property
    def may_pass(self) -> bool:
        # Serve's proxy answers in plain text before it has heard of its applications; raydc answers in JSON.
        return self.status in _PASSING_STATUS or (self.status == 404 and not self.body.startswith(b"{"))


def predict(
    url: str,
    rows: Sequence[dict[str, Any]] | None = None,
    image: bytes | str | PathLike[str] | None = None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """One request to `POST /predict`.

    Args:
        url: Address of the endpoint, such as `http://127.0.0.1:8000`.
        rows: Raw rows as JSON values; or
        image: An encoded image (PNG, JPEG, ...) or the path of one.
        timeout_s: For everything, retries included.

    Returns:
        `{"predictions": [...], "model": ..., "version": ...}`.

    Raises:
        UsageError: Neither or both of rows and image, a file that cannot be read, or an address that is none.
        ServeError: No answer in time, or a refusal; its message is the endpoint's.
    """
    if (rows is None) == (image is None):
        raise UsageError("give rows or an image to predict, one of the two")
    if image is not None:
        content = image if isinstance(image, bytes) else _read(image)
        return _ask(url, "POST", "/predict", content, _image_type(content), timeout_s)
    body = json.dumps({"rows": list(rows or [])}).encode()
    return _ask(url, "POST", "/predict", body, "application/json", timeout_s)


def metadata(url: str, model: str, timeout_s: float = 10.0) -> dict[str, Any]:
    """`GET /v2/models/{model}`: versions, inputs, outputs. Raises ServeError as `predict`."""
    return _ask(url, "GET", f"/v2/models/{urllib.parse.quote(model)}", None, None, timeout_s)


def locate(url: str, model: str, timeout_s: float = 10.0) -> str:
    """Where a model answers: the first of a Serve at its root, each further one below its name.

    Raises:
        ServeError: It answers at neither.
    """
    try:
        metadata(url, model, timeout_s)
    except ServeError:
        metadata(f"{url}/{model}", model, timeout_s)
        return f"{url}/{model}"
    return url


def _ask(
    url: str, method: str, path: str, body: bytes | None, content_type: str | None, timeout_s: float
) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    reason = "no attempt was made"
    for attempt in range(_MAX_ATTEMPTS):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            break
        delay_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2**attempt) * random.uniform(0.5, 1.0)
        try:
            answer = _request(url, method, path, body, content_type, remaining_s)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        else:
            if answer.status == 200:
                return _json(url, answer.body)
            reason = _reason(answer)
            if not answer.may_pass:
                raise ServeError(f"{url}{path} answered {answer.status}: {reason}")
            delay_s = max(delay_s, answer.retry_after_s or 0.0)
        time.sleep(max(0.0, min(delay_s, deadline - time.monotonic())))
    raise ServeError(
        f"no answer from {url}{path} within {timeout_s:g} s and {_MAX_ATTEMPTS} attempts: {reason}",
        "Is the endpoint up? `raydc serve spec.yaml` starts it.",
    )


def _request(
    url: str, method: str, path: str, body: bytes | None, content_type: str | None, timeout_s: float
) -> _Answer:
    """Raises OSError or HTTPException where there is no answer."""
    parts = _split(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    headers = {"content-type": content_type} if content_type else {}
    try:
        connection.request(method, parts.path.rstrip("/") + path, body, headers)
        response = connection.getresponse()
        return _Answer(response.status, response.read(), _seconds(response.getheader("retry-after")))
    finally:
        connection.close()


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 -- raises ValueError where it is no number.
    except ValueError as error:
        raise UsageError(f"{url!r} is no address: {error}", "Example: http://127.0.0.1:8000") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no address of an endpoint", "Example: http://127.0.0.1:8000")
    return parts


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def _reason(answer: _Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.body[:200].decode(errors="replace").strip()


def _json(url: str, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise ServeError(
            f"{url} answered something that is not JSON", "Is that address an endpoint of raydc?"
        ) from error
    if not isinstance(value, dict):
        raise ServeError(f"{url} answered {value!r}", "Is that address an endpoint of raydc?")
    return value


def _read(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"image {path}: {error.strerror}") from error


def _image_type(content: bytes) -> str:
    for magic, kind in _TYPES.items():
        if content.startswith(magic):
            return kind
    return "image/*"
