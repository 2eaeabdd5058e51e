"""What Ray Serve keeps of the requests of a replica: how many are in work, and its metrics of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from raydc.engine import internals
from raydc.serve.http.request import CLIENT_CLOSED

logger = logging.getLogger("ray.serve")

# As often as Serve itself hands its counts on.
_INTERVAL_S = 0.1
_OF_REPLICA = ("_deployment_id", "_metrics_manager", "_route_prefix", "_user_callable_wrapper")
_OF_METRICS = (
    *(
        "_cached_ingress_processing_latencies",
        "_cached_ingress_request_counter",
        "_cached_latencies",
    ),
    *("_cached_request_counter", "_max_processing_latency_trackers", "_user_code_time_accumulator"),
)


class ReplicaAccounting:
    """Keeps them in Serve's place. See `raydc.serve.direct.fast_path.Accounting`."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self._metrics = replica._metrics_manager
        self._protocol = internals.RequestProtocol.HTTP
        # Serve looks at no more of a request than that it came directly, and how.
        self._request = internals.RequestMetadata(
            "", "", is_direct_ingress=True, _request_protocol=self._protocol
        )
        self._ended: list[tuple[str, int, float]] = []

    @property
    def route_prefix(self) -> str:
        """`/`, or a path without a slash at its end; may change when the application is declared again."""
        return self._replica._route_prefix or "/"

    def begin(self) -> None:
        """A request is in work: Serve scales by them, and waits for them before the replica ends."""
        self._metrics.inc_num_ongoing_requests(self._request)

    def end(self, method: str, status: int, seconds: float) -> None:
        """It is no more."""
        self._metrics.dec_num_ongoing_requests(self._request)
        if not self._ended:
            asyncio.get_running_loop().call_later(_INTERVAL_S, self._write)
        self._ended.append((method, status, 1e3 * seconds))

    def _write(self) -> None:
        """Enters what has ended, many requests at a time."""
        ended, self._ended = self._ended, []
        by_kind: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for method, status, latency_ms in ended:
            by_kind[(method, status)].append(latency_ms)
        for (method, status), latencies_ms in by_kind.items():
            self._enter(method, status, latencies_ms)

    def _enter(self, method: str, status: int, latencies_ms: list[float]) -> None:
        metrics, route, deployment = self._metrics, self.route_prefix, self._replica._deployment_id
        common = {"route": route, "method": method, "status_code": str(status)}
        if status < 400:
            # What `record_request_metrics` and `record_ingress_request_metrics` do, for all of them at once.
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


def of_application(app: Any) -> ReplicaAccounting | None:
    """The books of the replica that an application of Serve's HTTP server leads to.

    None where more is between than Serve has by itself, where requests are traced, where the replica's code has another
    event loop than its server, and where this Ray's replica has not what is used of it.
    """
    if internals.is_tracing_enabled():
        return None
    if isinstance(app, ProxyHeadersMiddleware):
        app = app.app
    if isinstance(app, internals.RequestIdMiddleware):
        app = app._app
    replica = getattr(app, "__self__", None)
    if not isinstance(replica, internals.Replica) or app.__name__ != "_direct_ingress_asgi":
        return None
    missing = [name for name in _OF_REPLICA if not hasattr(replica, name)]
    missing += [
        name
        for name in _OF_METRICS
        if not hasattr(getattr(replica, "_metrics_manager", None), name)
    ]
    if missing:
        logger.warning(
            "requests take Ray Serve's slower way, because its replica has no %s",
            ", ".join(missing),
        )
        return None
    return (
        None
        if replica._user_callable_wrapper._run_user_code_in_separate_thread
        else ReplicaAccounting(replica)
    )
