"""One request, for which no client needs to be kept. Answers are as the endpoint wrote them, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from raydc.client import operations
from raydc.client.replies import json_of
from raydc.client.retry import MAX_RETRIES
from raydc.errors import ServeError

# Where it is asked whether something is there, an address where nothing is should say so soon.
_FEW_RETRIES = 5


def predict(
    url: str,
    rows: Sequence[operations.Row] | None = None,
    image: operations.Picture | None = None,
    timeout_s: float = 30.0,
    token: str | None = None,
) -> dict[str, Any]:
    """One request to `POST /predict`; arguments and errors as of `Client` and `Client.predict`.

    Returns:
        `{"predictions": [...], "model": ..., "version": ...}`.
    """
    return _ask(url, operations.predict(rows, image), timeout_s, MAX_RETRIES, token)


def metadata(
    url: str, model: str, timeout_s: float = 10.0, token: str | None = None
) -> dict[str, Any]:
    """`GET /v2/models/{model}`: versions, inputs, outputs. Errors as of `Client.metadata`."""
    return _ask(url, operations.metadata(model), timeout_s, _FEW_RETRIES, token)


def health(url: str, timeout_s: float = 10.0) -> dict[str, Any]:
    """`GET /healthz`, for which no token is needed: status, model and version. Errors as of `Client.metadata`."""
    return _ask(
        url, operations.Operation("GET", "/healthz", json_of), timeout_s, _FEW_RETRIES, None
    )


def locate(url: str, model: str, timeout_s: float = 10.0, token: str | None = None) -> str:
    """Where a model answers: the first of a Serve at its root, each further one below its name.

    Raises:
        ServeError: It answers at neither.
    """
    try:
        metadata(url, model, timeout_s, token)
    except ServeError:
        metadata(f"{url}/{model}", model, timeout_s, token)
        return f"{url}/{model}"
    return url


def _ask(
    url: str, ask: operations.Operation[Any], timeout_s: float, max_retries: int, token: str | None
) -> dict[str, Any]:
    from raydc.client.sync_client import Client

    with Client(url, token=token, timeout_s=timeout_s, max_retries=max_retries) as client:
        return client.run(dataclasses.replace(ask, read=json_of))
