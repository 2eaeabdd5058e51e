"""Waits in the driver until all replicas of an endpoint hold what was declared."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydc import client
from raydc.errors import RaydcError, RefusedError, ServeError
from raydc.serve.app import DEPLOYMENT
from raydc.serve.settings import Settings, Traffic

logger = logging.getLogger("raydc")

_POLL_INTERVAL_S = 0.1
# A start takes seconds. Anyone who waits longer is told what for.
_SILENT_S = 15.0
_TELL_INTERVAL_S = 30.0
# Replicas answer in milliseconds; one that takes longer is starting or stuck.
_STATE_TIMEOUT_S = 10.0
# Replicas read the list of tokens every few seconds, and a busy storage may delay that.
_TOKEN_TIMEOUT_S = 20.0
# The first line of an error of raydc in a traceback.
_RAYDC_ERROR = re.compile(r"^raydc\.errors\.\w+: ", re.MULTILINE)


@dataclass(frozen=True)
class Endpoint:
    """A served model.

    Attributes:
        url: Address for clients.
        model: Name of the model in the registry.
        version: Version that answers.
        alias: Alias that the endpoint serves.
    """

    url: str
    model: str
    version: int
    alias: str

    @property
    def app_name(self) -> str:
        """Name of the application in Ray Serve."""
        return self.model


def wait_until_applied(
    endpoint: Endpoint, settings: Settings, deadline: float, check: Callable[[], None]
) -> int:
    """Waits until all replicas have these settings and hold all their versions.

    Args:
        endpoint: Endpoint whose replicas are queried by the name of its application.
        settings: Settings that were declared to Serve and that each replica must report.
        deadline: Value of `time.monotonic()` at which the wait ends.
        check: Called before each query of the replicas; its errors end the wait.

    Returns:
        The number of replicas.

    Raises:
        ServeError: A replica refuses a version, the application failed, or the time is up.
    """
    wanted = settings.model_dump(mode="json")
    patience = _Patience(endpoint, deadline)
    while time.monotonic() < deadline:
        check()
        states = fetch_replica_states(endpoint.app_name)
        for state in states:
            if state["refused"] and state["told"] == wanted:
                version, reason = next(iter(state["refused"].items()))
                raise ServeError(f"version {version} is refused: {reason}")
        # Replicas may start or end at any time, so a count that was seen before is not trusted.
        if states and all(state["settings"] == wanted for state in states):
            return len(states)
        _raise_if_failed(endpoint)
        if not states:
            # An endpoint that was scaled to zero starts a replica for this request.
            _answering_version(endpoint)
        ready = sum(state["settings"] == wanted for state in states)
        patience.tell(f"{ready} of {len(states)} replicas that run have loaded it")
        time.sleep(_POLL_INTERVAL_S)
    raise _too_late(endpoint, "not every replica has loaded it")


def wait_until_answering(endpoint: Endpoint, traffic: Traffic, deadline: float) -> None:
    """Waits until the address answers with a version of this traffic.

    Args:
        endpoint: Endpoint that receives a request at each check.
        traffic: Its stable version or its canary must answer; a shadow does not count.
        deadline: Value of `time.monotonic()` at which the wait ends.

    Raises:
        ServeError: The time limit has passed.
    """
    # A request may go to the stable version or to its canary.
    answering = {str(side.version) for side in (traffic, traffic.canary) if side is not None}
    seen = "nothing answers yet"
    patience = _Patience(endpoint, deadline)
    while time.monotonic() < deadline:
        seen = _answering_version(endpoint)
        if seen in answering:
            return
        patience.tell(f"last seen at its address: {seen.splitlines()[0] if seen else 'nothing'}")
        time.sleep(_POLL_INTERVAL_S)
    raise _too_late(endpoint, seen)


class _Patience:
    """Says now and then what a wait for an endpoint waits for.

    Args:
        endpoint: Endpoint that should become ready.
        deadline: Value of `time.monotonic()` at which the wait ends.
    """

    def __init__(self, endpoint: Endpoint, deadline: float) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._started = time.monotonic()
        self._next = self._started + _SILENT_S

    def tell(self, seen: str) -> None:
        """Logs what was seen, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TELL_INTERVAL_S
        logger.warning(
            "serve     waits %.0f s for %s version %s at %s: %s. %s It gives up in %.0f s.",
            now - self._started,
            self._endpoint.model,
            self._endpoint.version,
            self._endpoint.url,
            seen,
            _advice(self._endpoint.app_name),
            max(0.0, self._deadline - now),
        )


def predict_row(
    url: str, row: dict[str, Any], token: str | None, timeout_s: float = 30.0
) -> dict[str, Any]:
    """Predicts one row, with a token that replicas may not know yet.

    Args:
        url: Address of the endpoint, with its path.
        row: Value by raw column of the data set.
        token: Access token, which may have been created just now; None for an open endpoint.
        timeout_s: Time limit of the request, once the token is known.

    Returns:
        The endpoint's JSON.

    Raises:
        ServeError: There is no answer, or the token stays unknown.
    """
    return _once_known(lambda: client.predict(url, [row], timeout_s=timeout_s, token=token))


def complete_text(
    url: str,
    model: str,
    prompt: str | list[dict[str, Any]],
    max_tokens: int,
    token: str | None,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """Continues one text or answers messages greedily, with a token that replicas may not know yet.

    Args:
        url: Address of the endpoint, with its path.
        model: Name of the model.
        prompt: Text that the answer follows, or messages.
        max_tokens: Most tokens of the answer.
        token: Access token, which may have been created just now; None for an open endpoint.
        timeout_s: Time limit of the request, once the token is known.

    Returns:
        The endpoint's JSON.

    Raises:
        ServeError: There is no answer, or the token stays unknown.
    """
    asked = {"max_tokens": max_tokens, "temperature": 0}
    if isinstance(prompt, str):
        return _once_known(lambda: client.complete(url, model, prompt, timeout_s, token, **asked))
    return _once_known(lambda: client.chat(url, model, prompt, timeout_s, token, **asked))


def _once_known(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Repeats a request until the replicas know its token, for a few seconds."""
    deadline = time.monotonic() + _TOKEN_TIMEOUT_S
    while True:
        try:
            return ask()
        except RefusedError as error:
            if error.status != 401 or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_INTERVAL_S)


def _too_late(endpoint: Endpoint, seen: str) -> ServeError:
    return ServeError(
        f"{endpoint.url} does not answer with {endpoint.model} version {endpoint.version} in time; "
        f"last seen: {seen}",
        _advice(endpoint.app_name),
    )


def fetch_replica_states(app_name: str) -> list[dict[str, Any]]:
    """Queries all running replicas (see `Service.state`); empty if none answers."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name)
        states: list[dict[str, Any]] = handle.broadcast("state").results(timeout_s=_STATE_TIMEOUT_S)
    # KeyError: the application is not deployed yet.
    except (KeyError, RayServeException, ray.exceptions.RayError, TimeoutError):
        return []
    return states


def _answering_version(endpoint: Endpoint) -> str:
    """Returns the version that answers, or the error if none does."""
    try:
        return str(client.health(endpoint.url, timeout_s=_STATE_TIMEOUT_S)["version"])
    except RaydcError as error:
        return str(error)


def _raise_if_failed(endpoint: Endpoint) -> None:
    """Raises ServeError as soon as the start has failed.

    Serve would try several times more, although a version that raydc refuses stays refused.
    """
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
    """Extracts the error of raydc from the traceback in Serve's message."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    # From the end: an error that was raised from another one comes last.
    for start, line in reversed(list(enumerate(lines))):
        if match := _RAYDC_ERROR.match(line):
            return "\n".join([line[match.end() :], *lines[start + 1 :]])
    return lines[-1].strip() if lines else "Ray Serve gives no reason"


def _advice(app_name: str) -> str:
    from ray import serve

    state = serve.status().applications.get(app_name)
    if state is None or DEPLOYMENT not in state.deployments:
        return "Ray Serve has no such application; `serve status` shows what runs."
    deployment = state.deployments[DEPLOYMENT]
    return f"Ray Serve says {deployment.status.value}: {_reason(deployment.message)}."
