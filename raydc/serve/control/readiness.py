"""Waits until every replica of an endpoint answers with what was declared, or says why it will not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydc import client
from raydc.errors import RaydcError, RefusedError, ServeError
from raydc.serve.app import DEPLOYMENT
from raydc.serve.settings import Settings, Traffic

_POLL_INTERVAL_S = 0.1
_STATE_TIMEOUT_S = 10.0
_TOKEN_TIMEOUT_S = 20.0
_RAYDC_ERROR = re.compile(r"^raydc\.errors\.\w+: ", re.MULTILINE)


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers."""

    url: str
    model: str
    version: int
    alias: str

    @property
    def app_name(self) -> str:
        """Of the application in Ray Serve."""
        return self.model


def wait_until_applied(
    endpoint: Endpoint, settings: Settings, deadline: float, check: Callable[[], None]
) -> int:
    """Returns the number of replicas when all of them have these settings and hold all their versions.

    Args:
        endpoint: The endpoint.
        settings: What was declared.
        deadline: Of `time.monotonic()`, seconds.
        check: Called each time before the replicas are asked; what it raises ends the wait.

    Raises:
        ServeError: A replica refuses a version, the application failed, or the time is over.
    """
    wanted = settings.model_dump(mode="json")
    while time.monotonic() < deadline:
        check()
        states = fetch_replica_states(endpoint.app_name)
        for state in states:
            if state["refused"] and state["told"] == wanted:
                version, reason = next(iter(state["refused"].items()))
                raise ServeError(f"version {version} is refused: {reason}")
        if states and all(state["settings"] == wanted for state in states):
            return len(states)
        _raise_if_failed(endpoint)
        if not states:
            _answering_version(endpoint)  # A request wakes an endpoint that has no replica.
        time.sleep(_POLL_INTERVAL_S)
    raise _too_late(endpoint, "not every replica has heard of it")


def wait_until_answering(endpoint: Endpoint, traffic: Traffic, deadline: float) -> None:
    """Returns when the address answers with a version of this traffic. Raises ServeError when the time is over."""
    answering = {str(side.version) for side in (traffic, traffic.canary) if side is not None}
    seen = "nothing answers yet"
    while time.monotonic() < deadline:
        seen = _answering_version(endpoint)
        if seen in answering:
            return
        time.sleep(_POLL_INTERVAL_S)
    raise _too_late(endpoint, seen)


def predict_row(
    url: str, row: dict[str, Any], token: str | None, timeout_s: float = 30.0
) -> dict[str, Any]:
    """One request to `/predict`, with a token that replicas may hear of only while this waits.

    Raises:
        ServeError: There is no answer.
    """
    deadline = time.monotonic() + _TOKEN_TIMEOUT_S
    while True:
        try:
            return client.predict(url, [row], timeout_s=timeout_s, token=token)
        except RefusedError as error:
            if error.status != 401 or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_INTERVAL_S)


def _too_late(endpoint: Endpoint, seen: str) -> ServeError:
    return ServeError(
        f"{endpoint.url} does not answer with {endpoint.model} version {endpoint.version} in time; last seen: {seen}",
        _advice(endpoint.app_name),
    )


def fetch_replica_states(app_name: str) -> list[dict[str, Any]]:
    """What each running replica says (see `Service.state`); empty when none runs."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name)
        states: list[dict[str, Any]] = handle.broadcast("state").results(timeout_s=_STATE_TIMEOUT_S)
    except (
        KeyError,
        RayServeException,
        ray.exceptions.RayError,
        TimeoutError,
    ):  # KeyError: not deployed yet.
        return []
    return states


def _answering_version(endpoint: Endpoint) -> str:
    try:
        return str(client.health(endpoint.url, timeout_s=_STATE_TIMEOUT_S)["version"])
    except RaydcError as error:
        return str(error)


def _raise_if_failed(endpoint: Endpoint) -> None:
    """Does not wait for Serve's further attempts where raydc itself has refused."""
    from ray import serve

    state = serve.status().applications.get(endpoint.app_name)
    if state is None:
        return
    deployment = state.deployments.get(DEPLOYMENT)
    message = (deployment.message if deployment else "") or state.message
    if state.status.value == "DEPLOY_FAILED" or _RAYDC_ERROR.search(message):
        raise ServeError(
            f"version {endpoint.version} of {endpoint.model} did not start: {_reason(message)}"
        )


def _reason(message: str) -> str:
    """The error at the end of the traceback that Serve gives as its message."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    for start, line in reversed(list(enumerate(lines))):
        if match := _RAYDC_ERROR.match(line):
            return "\n".join([line[match.end() :], *lines[start + 1 :]])
    return lines[-1].strip() if lines else "Ray Serve gives no reason"


def _advice(app_name: str) -> str:
    from ray import serve

    state = serve.status().applications.get(app_name)
    if state is None or DEPLOYMENT not in state.deployments:
        return "Ray Serve knows no such application; `serve status` says what runs."
    deployment = state.deployments[DEPLOYMENT]
    return f"Ray Serve says {deployment.status.value}: {_reason(deployment.message)}"
