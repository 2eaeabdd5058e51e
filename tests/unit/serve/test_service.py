"""Batches and versions of a service: full queues, and changes of version under load."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import small_models
from in_process import Store, body, fake_forward, post, request, run

from raydc import bundle
from raydc.errors import CheckpointError, RegistryError
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("pictures"), small_models.picture_features())


@pytest.mark.parametrize(("ongoing", "queued", "answered"), [(1, 2, 3), (2, 0, 2), (2, -1, 6)])
def test_predict_full_queue_gives_429(
    tables: Store, ongoing: int, queued: int, answered: int
) -> None:
    go_on = threading.Event()

    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        forward = service.current.batcher.forward

        def held(x: Any) -> Any:
            assert go_on.wait(timeout=30)
            return forward(x)

        fake_forward(service, held)
        tasks = [
            asyncio.create_task(routes.respond(post("/predict", small_models.table_rows(1))))
            for _ in range(6)
        ]
        refused = 6 - answered
        while sum(task.done() for task in tasks) < refused:
            await asyncio.sleep(0.01)
        go_on.set()
        responses = await asyncio.gather(*tasks)
        codes = [response.status_code for response in responses]
        assert (codes.count(200), codes.count(429)) == (answered, refused)
        assert all(r.headers["retry-after"] == "1" for r in responses if r.status_code == 429)

    run(tables.settings(max_ongoing_requests=ongoing, max_queued_requests=queued), scenario)


@pytest.mark.parametrize("max_batch_size", [1, 4, 64])
def test_batch_has_at_most_max_batch_size_requests(tables: Store, max_batch_size: int) -> None:
    async def scenario(service: Service, routes: Routes) -> list[int]:
        sent = [post("/predict", small_models.table_rows(1, seed)) for seed in range(12)]
        responses = await asyncio.gather(*(routes.respond(one) for one in sent))
        assert {response.status_code for response in responses} == {200}
        assert service.current is not None
        return list(service.current.batcher.batch_sizes)

    sizes = run(tables.settings(max_batch_size=max_batch_size), scenario)
    assert sum(sizes) == 12
    assert max(sizes) == min(12, max_batch_size)


def test_predict_more_rows_than_a_batch_takes_several(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> Any:
        assert service.current is not None
        sizes: list[int] = []
        forward = service.current.batcher.forward

        def seen(x: Any) -> Any:
            sizes.append(len(x))
            return forward(x)

        service.current.batcher.forward = seen
        answer = body(await routes.respond(post("/predict", small_models.table_rows(10))))
        return sizes, answer["predictions"]

    sizes, predictions = run(tables.settings(max_batch_size=4), scenario)
    assert sizes == [4, 4, 2]
    offline = tables.bundle(1).predict_rows(small_models.table_rows(10))
    assert [one["label"] for one in predictions] == [one["label"] for one in offline]


# Versions ----------------------------------------------------------------------------------------


def test_configure_new_version_keeps_old_for_running_requests(tables: Store) -> None:
    go_on = threading.Event()

    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        forward = service.current.batcher.forward

        def held(x: Any) -> Any:
            assert go_on.wait(timeout=30)
            return forward(x)

        fake_forward(service, held)
        in_work = asyncio.create_task(routes.respond(post("/predict", small_models.table_rows(1))))
        while not service.current.batcher.batch_sizes:
            await asyncio.sleep(0.001)
        await service.configure(tables.settings(2))
        go_on.set()
        assert body(await in_work)["version"] == "1"
        assert body(await in_work)["predictions"] == tables.bundle(1).predict_rows(
            small_models.table_rows(1)
        )
        assert (
            body(await routes.respond(post("/predict", small_models.table_rows(1))))["version"]
            == "2"
        )

    run(tables.settings(1), scenario)


def test_configure_golden_rows_differ_keeps_old_version(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        await service.configure(tables.settings(3))
        assert "golden rows[0]: output 'no'" in service.state()["refused"][3]
        assert service.state()["told"]["traffic"]["version"] == 3
        assert body(await routes.respond(request("GET", "/healthz")))["version"] == "1"
        await service.configure(tables.settings(2))
        assert service.state()["refused"] == {}
        assert service.state()["settings"]["traffic"]["version"] == 2

    run(tables.settings(1), scenario)


def test_configure_first_version_fails_raises(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        with pytest.raises(CheckpointError, match="golden rows"):
            await service.configure(tables.settings(3))
        with pytest.raises(RegistryError, match="no version 9"):
            await service.configure(tables.settings(9))
        assert (await routes.respond(request("GET", "/healthz"))).status_code == 503

    run(None, scenario)


def test_configure_limits_changed_keeps_loaded_model(
    tables: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(service: Service, routes: Routes) -> None:
        assert service.current is not None
        before = service.current.bundle
        monkeypatch.setattr(bundle, "load", None)
        await service.configure(tables.settings(1, max_request_bytes=1))
        assert service.current.bundle is before
        assert (await routes.respond(post("/predict", [{}]))).status_code == 413

    run(tables.settings(1), scenario)
