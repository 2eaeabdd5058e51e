"""A scripted server, a clock that only sleeping moves, and each of the two clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from scripted_endpoint import Asking, Clock, Scripted, ask_awaited, ask_waiting

from raydc.client import async_client, retry
from raydc.client import sync_client as waiting


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retry, "monotonic", made.monotonic)
    monkeypatch.setattr(retry, "uniform", made.uniform)
    monkeypatch.setattr(waiting, "sleep", made.sleep)
    monkeypatch.setattr(async_client, "sleep", made.sleep_async)
    return made


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYDC_TOKEN", raising=False)


@pytest.fixture(params=[ask_waiting, ask_awaited], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Asking:
    """Makes a client of either kind, calls a method of it, closes it."""
    asking: Asking = request.param
    return asking
