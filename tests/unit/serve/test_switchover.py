"""A switch declares twice, restores the old state on failure, and respects others' changes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from raydc.engine import serve_client
from raydc.errors import ServeError
from raydc.serve.control import switchover
from raydc.serve.control.application import IMPORT_PATH, read_settings, replace_settings
from raydc.serve.control.readiness import Endpoint
from raydc.serve.settings import Settings, Traffic

NOW_S = 1000.0


def make_settings(version: int, **fields: Any) -> Settings:
    given = {
        "storage": "/store",
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


def switch(before: dict[str, Any] | None, settings: Settings) -> None:
    application = replace_settings(make_application("small", settings), settings)
    endpoint = Endpoint("http://127.0.0.1:8000", "small", settings.traffic.version, "production")
    switchover.apply_and_wait(endpoint, application, before, 60.0)


def test_switch_loads_first_and_then_names_an_instant_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)
    switch(before, make_settings(2))
    loading, switching = fake.declared
    assert (loading.traffic.version, loading.staged, loading.before) == (1, (2,), None)
    assert (switching.traffic.version, switching.staged) == (2, ())
    assert switching.before == Traffic(version=1)
    assert switching.since_s == pytest.approx(NOW_S + 2.0 + 2 * 0.3)
    assert fake.slept == [pytest.approx(2.6)], "returns when the switch is over"


def test_new_endpoint_and_changed_limits_need_no_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServe(monkeypatch)
    switch(None, make_settings(1))
    assert fake.declared == [make_settings(1)]
    before = fake.running[0]
    switch(before, make_settings(1, max_batch_size=4))
    assert fake.declared[-1] == make_settings(1, max_batch_size=4)
    assert fake.slept == []


def test_failed_switch_declares_the_old_application_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)

    def refuse() -> None:
        raise ServeError("version 2 is refused")

    fake.while_waiting = refuse
    with pytest.raises(ServeError, match="version 2 is refused"):
        switch(before, make_settings(2))
    assert fake.running == [before]


def test_change_of_somebody_else_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    theirs = make_application("small", make_settings(3))
    fake = FakeServe(monkeypatch, before)

    def overtake() -> None:
        fake.running = [theirs]

    fake.while_waiting = overtake
    with pytest.raises(ServeError, match="somebody else has changed the endpoint of small"):
        switch(before, make_settings(2))
    assert fake.running == [theirs]


def test_put_application_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    other, old = make_application("other"), make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, other, old)
    new = make_application("small", make_settings(2))
    switchover.put_application(new)
    assert fake.running == [other, new]
