"""Ray Serve's bookkeeping of a replica's requests: how many are in progress, and their metrics.

Requests of the direct path bypass the code of Ray Serve that counts them, so it is done here: Serve
scales by the number of requests in progress, and waits for them before a replica ends. Runs in
the replica.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from raydc.engine import internals
from raydc.serve.direct import own_replica
from raydc.serve.http.request import CLIENT_CLOSED

# The interval at which Ray Serve itself hands its counts on: more often would change nothing.
_INTERVAL_S = 0.1


class UnsupportedReplicaError(Exception):
    """This replica needs Ray Serve's own path, or is not as expected."""


class ReplicaAccounting:
    """Counts requests in Ray Serve's place. See `raydc.serve.direct.fast_path.Accounting`.

    Args:
        replica: Ray Serve's object of the replica.
    """

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self._metrics = replica._metrics_manager
        self._protocol = internals.RequestProtocol.HTTP
        # Serve reads two things of a request to count it: that it came directly, and by HTTP. So
        # one object serves for all requests.
        self._request = internals.RequestMetadata(
            "", "", is_direct_ingress=True, _request_protocol=self._protocol
        )
        self._ended: list[tuple[str, int, float]] = []

    @property
    def route_prefix(self) -> str:
        """`/`, or a path without a slash at its end; changes when the application moves."""
        return self._replica._route_prefix or "/"

    def begin(self) -> None:
        """Starts counting a request as in progress."""
        self._metrics.inc_num_ongoing_requests(self._request)

    def end(self, method: str, status: int, seconds: float) -> None:
        """Stops counting a request as in progress, and notes it for the metrics.

        Args:
            method: HTTP method, a tag of Serve's metrics.
            status: HTTP status; `CLIENT_CLOSED` if the client did not get the answer.
            seconds: Time from the head of the request to the end of its answer.
        """
        self._metrics.dec_num_ongoing_requests(self._request)
        if not self._ended:
            asyncio.get_running_loop().call_later(_INTERVAL_S, self._write)
        self._ended.append((method, status, 1e3 * seconds))

    def _write(self) -> None:
        """Adds the requests that have ended to Ray Serve's metrics, many at a time."""
        ended, self._ended = self._ended, []
        by_kind: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for method, status, latency_ms in ended:
            by_kind[(method, status)].append(latency_ms)
        for (method, status), latencies_ms in by_kind.items():
            self._add(method, status, latencies_ms)

    def _add(self, method: str, status: int, latencies_ms: list[float]) -> None:
        metrics, route, deployment = self._metrics, self.route_prefix, self._replica._deployment_id
        common = {"route": route, "method": method, "status_code": str(status)}
        if status < 400:
            # The same as `record_request_metrics` and `record_ingress_request_metrics` for each of
            # the requests, but the dictionaries are looked up once. Errors below are rare.
            metrics._user_code_time_accumulator.add(sum(latencies_ms))
            metrics._max_processing_latency_trackers[route].add(max(latencies_ms))
            metrics._cached_request_counter[route] += len(latencies_ms)
            metrics._cached_latencies[route].extend(latencies_ms)
            if metrics._should_emit_request_ingress_metrics(self._protocol):
                tags = frozenset((common | {"application": deployment.app_name}).items())
                metrics._cached_ingress_request_counter[self._protocol][tags] += len(latencies_ms)
                metrics._cached_ingress_processing_latencies[self._protocol][tags].extend(
                    latencies_ms
                )
            return
        for latency_ms in latencies_ms:
            # Serve counts exceptions of user code as errors here; a refusal is not an error.
            metrics.record_request_metrics(
                route=route,
                latency_ms=latency_ms,
                is_error=status == CLIENT_CLOSED,
                exception_type=asyncio.CancelledError.__name__ if status == CLIENT_CLOSED else None,
            )
            metrics.record_ingress_request_metrics(
                protocol=self._protocol,
                app_name=deployment.app_name,
                deployment_name=deployment.name,
                latency_ms=latency_ms,
                is_error=status >= 400,
                **common,
            )


def find_accounting(app: Any) -> ReplicaAccounting:
    """Accounting of the replica behind the application of Ray Serve's HTTP server.

    Args:
        app: The ASGI application that uvicorn calls.

    Raises:
        UnsupportedReplicaError: Requests are traced, there is middleware, the replica's
            code has another event loop than its server, or Ray is not as expected.
    """
    if internals.is_tracing_enabled():
        raise UnsupportedReplicaError("requests are traced")
    # These two are uvicorn's and Serve's own; raydc does what they do itself.
    if isinstance(app, ProxyHeadersMiddleware):
        app = app.app
    if isinstance(app, internals.RequestIdMiddleware):
        app = app._app
    replica = getattr(app, "__self__", None)
    if not isinstance(replica, internals.Replica) or app.__name__ != "_direct_ingress_asgi":
        raise UnsupportedReplicaError("middleware stands between the server and the replica")
    try:
        wrapper, metrics = replica._user_callable_wrapper, replica._metrics_manager
        if wrapper._run_user_code_in_separate_thread:
            raise UnsupportedReplicaError("the replica's code runs in a separate thread")
        own_replica.route_prefix(replica)
        _ = replica._deployment_id
        for name in internals.attributes_of("ReplicaMetricsManager"):
            getattr(metrics, name)
    except AttributeError as error:
        raise UnsupportedReplicaError(f"Ray Serve's replica differs: {error}") from error
    return ReplicaAccounting(replica)
