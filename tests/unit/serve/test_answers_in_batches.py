"""Clients get the same bytes, alone or among others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from in_process import Store, body, post, request, run

from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service


@pytest.mark.parametrize("kind", ["table", "picture"])
def test_answer_is_the_same_alone_and_in_any_batch(tmp_path: Path, kind: str) -> None:
    features = getattr(small_models, f"{kind}_features")()
    rows = getattr(small_models, f"{kind}_rows")(96)
    store = Store(tmp_path, features)

    async def scenario(service: Service, routes: Routes) -> None:
        async def ask(chosen: list[int]) -> list[Any]:
            answer = await routes.respond(post("/predict", [rows[index] for index in chosen]))
            found: list[Any] = body(answer)["predictions"]
            return found

        alone = [(await ask([index]))[0] for index in range(len(rows))]
        choose = np.random.default_rng(0)
        for num_clients in (2, 3, 17, 64):
            asked = [
                choose.integers(len(rows), size=choose.integers(1, 5)).tolist()
                for _ in range(num_clients)
            ]
            for chosen, found in zip(asked, await asyncio.gather(*map(ask, asked)), strict=True):
                assert found == [alone[index] for index in chosen]
        assert await ask(list(range(len(rows)))) == alone, "more rows than a batch"
        assert service.current is not None
        assert max(service.current.batcher.batch_sizes) > 1
        metadata = body(await routes.respond(request("GET", "/v2/models/small")))
        assert "independent of its batch" in metadata["parameters"]["answer"]

    run(store.settings(), scenario)
    offline = store.bundle(1).predict_rows(rows)

    async def same_as_offline(service: Service, routes: Routes) -> None:
        answer = await routes.respond(post("/predict", rows[:7]))
        assert body(answer)["predictions"] == offline[:7]

    run(store.settings(), same_as_offline)
