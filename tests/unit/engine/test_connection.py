"""Which Ray a driver connects to."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from raydc import engine
from raydc.engine import connection


@pytest.mark.parametrize(
    ("address", "asked"), [(None, "local"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_connect_without_an_address_starts_a_ray_of_its_own(
    monkeypatch: pytest.MonkeyPatch, address: str | None, asked: str
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(connection, "choose_auth", lambda local: None)
    monkeypatch.setattr(
        connection, "_describe", lambda local, dashboard_url: engine.Engine(local, "", 1, {})
    )
    assert engine.connect(address).local == (address is None)
    assert [options["address"] for options in given] == [asked]
