"""Ray Serve's own object for the replica that this process is, and what raydc reads of it.

Ray Serve hands a deployment no reference to it. Runs in the replica.
"""

from __future__ import annotations

from typing import Any

from raydc.engine import internals
from raydc.errors import ClusterError

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}


def find_replica() -> Any:
    """Ray Serve's object of this process's replica.

    Raises:
        ClusterError: This process is not a replica, or Ray keeps its actors elsewhere.
    """
    for actor in internals.global_worker.actors.values():
        replica = getattr(actor, "_replica_impl", None)
        if isinstance(replica, internals.Replica):
            return replica
    raise ClusterError("this process has no replica of Ray Serve")


def http_address(replica: Any) -> tuple[str, int]:
    """Address at which this machine reaches the replica's HTTP server.

    Raises:
        ClusterError: The replica has none: requests come through Ray Serve's Python proxy.
    """
    if replica._http_options is None or not replica._http_port:
        raise ClusterError(
            "the replica has no HTTP server, requests come through Ray Serve's Python proxy"
        )
    host = str(replica._http_options.host)
    return _LOOPBACK_OF.get(host, host), int(replica._http_port)


def route_prefix(replica: Any) -> str:
    """`/`, or a path without a slash at its end; changes when the application moves."""
    return str(replica._route_prefix or "/")


def num_ongoing_requests(replica: Any) -> int:
    """Requests in progress by Ray Serve's count, by which it scales and for which it waits."""
    return int(replica._metrics_manager.get_num_ongoing_requests())
