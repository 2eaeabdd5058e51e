"""A stand-in for Ray Serve, and a switch of an endpoint on it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from raydc.engine import serve_client
from raydc.serve.control import switchover
from raydc.serve.control.application import IMPORT_PATH, read_settings, replace_settings
from raydc.serve.control.readiness import Endpoint
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage
from raydc.tracking.endpoint_record import EndpointRecord, read_record

NOW_S = 1000.0


def make_settings(version: int, **fields: Any) -> Settings:
    given = {
        "storage": "store",
        "model": "small",
        "alias": "production",
        "traffic": Traffic(version=version),
        "max_ongoing_requests": 8,
        "max_queued_requests": 8,
        "max_batch_size": 8,
        "batch_wait_timeout_s": 0.0,
        "request_timeout_s": 30.0,
        "max_request_bytes": 1000,
        "max_request_rows": 10,
        "max_request_pixels": 100,
    }
    return Settings(**{**given, **fields})


def make_application(name: str, settings: Settings | None = None) -> dict[str, Any]:
    deployment = {"user_config": settings.model_dump(mode="json") if settings else {}}
    return {"name": name, "import_path": IMPORT_PATH, "deployments": [deployment]}


class FakeServe:
    """Stands in for Ray Serve: keeps what is declared, with `num_replicas` replicas that follow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *applications: dict[str, Any]) -> None:
        self.running = list(applications)
        self.declared: list[Settings] = []
        self.slept: list[float] = []
        self.num_replicas = 2
        self.while_waiting: Callable[[], None] = lambda: None
        monkeypatch.setattr(serve_client, "applications", lambda: self.running)
        monkeypatch.setattr(serve_client, "apply", self.apply)
        monkeypatch.setattr(serve_client, "ray_address", lambda: "10.0.0.1:6379")
        monkeypatch.setattr(switchover, "wait_until_applied", self.wait_until_applied)
        monkeypatch.setattr(switchover, "wait_until_answering", lambda *_: None)
        clock = SimpleNamespace(
            time=lambda: NOW_S, monotonic=lambda: NOW_S, sleep=self.slept.append
        )
        monkeypatch.setattr(switchover, "time", clock)

    def apply(self, applications: list[dict[str, Any]]) -> None:
        self.running = applications
        self.declared += [read_settings(one) for one in applications if one["name"] == "small"]

    def wait_until_applied(
        self, endpoint: Endpoint, settings: Settings, deadline: float, check: Callable[[], None]
    ) -> int:
        assert (endpoint.model, deadline) == ("small", NOW_S + 60.0)
        assert settings == self.declared[-1]
        self.while_waiting()
        check()
        return self.num_replicas


def switch(
    before: dict[str, Any] | None,
    settings: Settings,
    commit: Callable[[], None] = lambda: None,
    afterwards: Callable[[], None] | None = None,
) -> None:
    application = replace_settings(make_application("small", settings), settings)
    endpoint = Endpoint("http://127.0.0.1:8000", "small", settings.traffic.version, "production")
    switchover.apply_and_wait(endpoint, application, before, 60.0, commit, afterwards)


def record() -> EndpointRecord | None:
    return read_record(Storage("store"), "small", "production")
