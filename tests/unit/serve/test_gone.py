"""A client that goes away: what it asked for is not computed where that is long."""

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


def ask(client_stays: bool) -> tuple[list[int], Any]:
    """Rows of the forward passes for two requests, the second of which waits for the first; its outputs."""
    seen: list[int] = []
    is_free = threading.Event()

    def forward(x: Array) -> Array:
        seen.append(int(x[0, 0]))
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
            asked = Request({"path": "/predict", "headers": []}, receive)
            second = asyncio.create_task(
                handler._compute(asked, loaded, np.full((1, 1), 2, np.float32))
            )
            if not client_stays:
                await asyncio.wait({second}, timeout=20.0)
            is_free.set()
            await first
            return await second

    try:
        return seen, asyncio.run(scenario())
    except ClientDisconnect as error:
        return seen, error


def test_what_a_client_that_went_away_asked_for_is_not_computed() -> None:
    seen, outputs = ask(client_stays=False)
    assert seen == [1]
    assert isinstance(outputs, ClientDisconnect)


def test_a_client_that_stays_gets_its_answer() -> None:
    seen, outputs = ask(client_stays=True)
    assert seen == [1, 2]
    assert outputs == pytest.approx(np.full((1, 1), 2))
