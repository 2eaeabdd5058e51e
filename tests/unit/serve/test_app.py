"""The deployment: what it installs before the server starts, and what it says about its path."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import small_models
from in_process import Store
from uvicorn.protocols.http import auto, httptools_impl

from raydc.serve import app
from raydc.serve.http.request import Request


@pytest.fixture
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    settings = Store(tmp_path, small_models.table_features()).settings(
        auth="none", access_log=False
    )
    config: dict[str, Any] = settings.model_dump(mode="json")
    return config


def test_replica_with_direct_off_installs_nothing(
    user_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.raydc"):
        replica = app.Replica("off")
    assert auto.AutoHTTPProtocol is httptools_impl.HttpToolsProtocol
    asyncio.run(replica.reconfigure(user_config))
    found = asyncio.run(replica.state())["request_path"]
    assert (found["path"], found["reason"]) == ("serve", "serve.direct is off")
    (line,) = [one.getMessage() for one in caplog.records if "path" in one.getMessage()]
    assert all(text in line for text in found["limits_not_in_force"])


def test_replica_outside_ray_serve_falls_back_with_the_reason(user_config: dict[str, Any]) -> None:
    replica = app.Replica("auto")
    assert auto.AutoHTTPProtocol is not httptools_impl.HttpToolsProtocol
    asyncio.run(replica.reconfigure(user_config))
    found = asyncio.run(replica.state())["request_path"]
    assert (found["path"], found["reason"]) == (
        "serve",
        "this process has no replica of Ray Serve",
    )
    assert replica.routes.request_path == found
    assert auto.AutoHTTPProtocol is httptools_impl.HttpToolsProtocol


def test_replica_with_another_uvicorn_falls_back(
    user_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("raydc.serve.direct.selection.PathSelection")
    replica = app.Replica("auto")
    found = asyncio.run(replica.state())["request_path"]
    assert found["path"] == "serve"
    assert "PathSelection" in found["reason"]


def test_replica_answers_on_serves_path(user_config: dict[str, Any]) -> None:
    replica = app.Replica("off")
    scope = {"type": "http", "method": "GET", "path": "/v2/models/small", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def answer() -> bytes:
        await replica.reconfigure(user_config)
        return bytes((await replica(Request(scope, receive))).body)

    assert b'"request_path":{"path":"serve"' in asyncio.run(answer())


def test_build_passes_the_setting_to_the_replica() -> None:
    for args, direct in (({}, "auto"), ({"direct": "off"}, "off")):
        deployment = app.build(args)._bound_deployment
        assert deployment.init_args == (direct,)
