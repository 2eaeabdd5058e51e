"""Accounting of the direct path: found behind Ray Serve's middleware, and counts as Serve does."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from raydc.engine import internals
from raydc.serve.direct import serve_accounting
from raydc.serve.direct.serve_accounting import UnsupportedReplicaError, find_accounting
from raydc.serve.http.request import CLIENT_CLOSED

WAIT_S = 20.0


def serves_application(**more: Any) -> Any:
    """The application that Serve gives to uvicorn, with a replica that was never started."""
    replica = object.__new__(internals.Replica)
    metrics = SimpleNamespace(**dict.fromkeys(internals.attributes_of("ReplicaMetricsManager")))
    wrapper = SimpleNamespace(_run_user_code_in_separate_thread=False)
    given = {
        "_metrics_manager": metrics,
        "_deployment_id": None,
        "_route_prefix": "/",
        "_user_callable_wrapper": wrapper,
    }
    replica.__dict__.update(
        {name: value for name, value in {**given, **more}.items() if value != "missing"}
    )
    return ProxyHeadersMiddleware(internals.RequestIdMiddleware(replica._direct_ingress_asgi))


def test_replica_is_found_behind_serves_own_middleware() -> None:
    assert find_accounting(serves_application()).route_prefix == "/"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"_user_callable_wrapper": SimpleNamespace(_run_user_code_in_separate_thread=True)},
            "runs in a separate thread",
        ),
        ({"_deployment_id": "missing"}, "'_deployment_id'"),
        ({"_metrics_manager": SimpleNamespace()}, "'_cached_"),
    ],
)
def test_unsuitable_replica_is_refused_with_the_reason(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedReplicaError, match=reason):
        find_accounting(serves_application(**more))


def test_traced_requests_keep_serves_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "is_tracing_enabled", lambda: True, raising=False)
    with pytest.raises(UnsupportedReplicaError, match="traced"):
        find_accounting(serves_application())


def test_middleware_of_others_is_not_bypassed() -> None:
    app = serves_application()

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    app.app._app, between = other, app.app._app
    for changed in (app, ProxyHeadersMiddleware(other)):
        with pytest.raises(UnsupportedReplicaError, match="middleware"):
            find_accounting(changed)
    assert find_accounting(between.__self__._direct_ingress_asgi).route_prefix == "/"


def manager() -> Any:
    """Serve's own metrics manager, without the parts that send metrics away."""
    http = internals.RequestProtocol.HTTP
    made = object.__new__(internals.ReplicaMetricsManager)
    counts = lambda: defaultdict(lambda: defaultdict(int))  # noqa: E731
    made.__dict__.update(
        _ingress=True,
        _cached_metrics_enabled=True,
        _num_ongoing_requests=0,
        _ingress_metrics={http: None},
        _ingress_ongoing_requests={http: 0},
        _cached_request_counter=defaultdict(int),
        _cached_error_counter=defaultdict(int),
        _cached_latencies=defaultdict(deque),
        _cached_ingress_request_counter=counts(),
        _cached_ingress_request_error_counter=counts(),
        _cached_deployment_request_error_counter=counts(),
        _cached_ingress_processing_latencies=defaultdict(lambda: defaultdict(deque)),
        _max_processing_latency_trackers=defaultdict(Total),
        _user_code_time_accumulator=Total(),
        _should_emit_request_ingress_metrics=lambda protocol: True,
    )
    return made


class Total:
    def __init__(self) -> None:
        self.total = self.most = 0.0

    def add(self, value: float) -> None:
        self.total += value
        self.most = max(self.most, value)


def test_counters_equal_those_of_serve_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.serve._private.replica.RAY_SERVE_ENABLE_DIRECT_INGRESS", True)
    requests = [
        ("POST", 200, 0.5),
        ("POST", 200, 0.25),
        ("GET", 200, 0.125),
        ("POST", 422, 1.0),
        ("POST", 499, 2.0),
    ]
    serves, own, http = manager(), manager(), internals.RequestProtocol.HTTP
    replica = SimpleNamespace(
        _metrics_manager=own,
        _route_prefix="/a",
        _deployment_id=SimpleNamespace(app_name="small", name="Replica"),
    )

    async def scenario() -> None:
        kept = serve_accounting.ReplicaAccounting(replica)
        for _ in requests:
            kept.begin()
        assert own._num_ongoing_requests == own._ingress_ongoing_requests[http] == len(requests)
        for method, status, seconds in requests:
            kept.end(method, status, seconds)
            is_gone = status == CLIENT_CLOSED
            serves.record_request_metrics(
                route="/a",
                latency_ms=1e3 * seconds,
                is_error=is_gone,
                exception_type="CancelledError" if is_gone else None,
            )
            serves.record_ingress_request_metrics(
                protocol=http,
                method=method,
                route="/a",
                app_name="small",
                deployment_name="Replica",
                latency_ms=1e3 * seconds,
                is_error=status >= 400,
                status_code=str(status),
            )
        assert own._num_ongoing_requests == own._ingress_ongoing_requests[http] == 0
        async with asyncio.timeout(WAIT_S):
            while not own._cached_latencies:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    for name, expected in serves.__dict__.items():
        if name.startswith("_cached"):
            assert getattr(own, name) == expected, name
    assert (
        own._user_code_time_accumulator.total == serves._user_code_time_accumulator.total == 3875.0
    )
    assert own._max_processing_latency_trackers["/a"].most == 2000.0
