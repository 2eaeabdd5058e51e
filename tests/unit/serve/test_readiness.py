"""A wait for an endpoint says what it waits for, and ends with Ray Serve's reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from raydc import client
from raydc.errors import ServeError, UnavailableError
from raydc.serve.control import readiness
from raydc.serve.control.readiness import Endpoint
from raydc.serve.settings import Traffic

ENDPOINT = Endpoint("http://127.0.0.1:8000", "small", 2, "production")
REASON = "Ray Serve says UPDATING: no node has 64 CPUs."


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now_s, sleep=self.sleep)
        monkeypatch.setattr(readiness, "time", clock)

    def sleep(self, _: float) -> None:
        self.now_s += 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    def health(*_: object, **__: object) -> dict[str, Any]:
        raise UnavailableError("no replica answers; try again")

    monkeypatch.setattr(client, "health", health)
    monkeypatch.setattr(readiness, "_advice", lambda _: REASON)
    monkeypatch.setattr(readiness, "_raise_if_failed", lambda _: None)
    monkeypatch.setattr(readiness, "fetch_replica_states", lambda _: [])
    return Clock(monkeypatch)


def applied(deadline: float) -> None:
    settings = SimpleNamespace(model_dump=lambda **_: {})
    readiness.wait_until_applied(ENDPOINT, settings, deadline, lambda: None)  # type: ignore[arg-type]


def answering(deadline: float) -> None:
    readiness.wait_until_answering(ENDPOINT, Traffic(version=2), deadline)


@pytest.mark.parametrize(
    ("wait", "seen"),
    [
        (applied, "0 of 0 replicas that run have loaded it"),
        (answering, "last seen at its address: no replica answers; try again"),
    ],
)
def test_wait_tells_after_15_s_and_ends_with_the_reason(
    clock: Clock, caplog: pytest.LogCaptureFixture, wait: Callable[[float], None], seen: str
) -> None:
    with caplog.at_level(logging.WARNING, "raydc"), pytest.raises(ServeError) as error:
        wait(clock.now_s + 180.0)
    assert (error.value.exit_code, error.value.hint) == (8, REASON)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == (
        f"serve     waits 15 s for small version 2 at http://127.0.0.1:8000: {seen}. {REASON} "
        "It gives up in 165 s."
    )
    assert len(told) == 6, "then every 30 s"


def test_short_wait_tells_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "raydc"), pytest.raises(ServeError):
        applied(clock.now_s + 14.0)
    assert caplog.records == []
