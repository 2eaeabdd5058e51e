"""Handlers of predictions: a request whose client has gone is not computed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from raydc.serve.http.prediction import PredictionHandler
from raydc.serve.http.request import Request
from raydc.serve.replica.batching import Array, Batcher
from raydc.serve.replica.service import Service


def send_two(client_stays: bool) -> tuple[list[int], Any]:
    """Sends two requests, the second of which waits for the first.

    Returns:
        First value of each forward pass, and the outputs or the error of the second request.
    """
    computed: list[int] = []
    is_free = threading.Event()

    def forward(x: Array) -> Array:
        computed.append(int(x[0, 0]))
        assert is_free.wait(20.0)
        return x

    async def scenario() -> Any:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(forward, max_batch_size=1, executor=executor)
            loaded: Any = SimpleNamespace(
                batcher=batcher, settings=SimpleNamespace(max_batch_size=1)
            )
            handler, stays = PredictionHandler(Service()), asyncio.Event()

            async def receive() -> dict[str, Any]:
                if client_stays:
                    await stays.wait()
                return {"type": "http.disconnect"}

            first = asyncio.create_task(batcher.submit(np.ones((1, 1), np.float32)))
            sent = Request({"path": "/predict", "headers": []}, receive)
            second = asyncio.create_task(
                handler._compute(sent, loaded, np.full((1, 1), 2, np.float32))
            )
            if not client_stays:
                await asyncio.wait({second}, timeout=20.0)
            is_free.set()
            await first
            return await second

    try:
        return computed, asyncio.run(scenario())
    except ClientDisconnect as error:
        return computed, error


def test_compute_client_disconnects_drops_queued_request() -> None:
    computed, outputs = send_two(client_stays=False)
    assert computed == [1]
    assert isinstance(outputs, ClientDisconnect)


def test_compute_client_stays_returns_outputs() -> None:
    computed, outputs = send_two(client_stays=True)
    assert computed == [1, 2]
    assert outputs == pytest.approx(np.full((1, 1), 2))
