"""A request that the model cannot compute fails alone, whoever stands beside it in the batch."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import small_models
from in_process import Store, fake_forward, post, run

from raydc.serve.http.routes import Routes
from raydc.serve.replica.batching import Array, Batcher
from raydc.serve.replica.service import Service
from raydc.serve.replica.splitting import compute_alone, compute_each

POISON = -1.0


def checked(x: Array) -> Array:
    """A network that raises for one value, like an embedding whose index is out of range."""
    if (x == POISON).any():
        raise IndexError("index out of range in self")
    return x * 2


def rows(*values: float) -> Array:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


@pytest.mark.parametrize("in_thread", [False, True])
def test_poison_fails_none_of_sixteen_other_clients(in_thread: bool) -> None:
    async def scenario(executor: ThreadPoolExecutor | None) -> tuple[list[Any], int]:
        batcher = Batcher(checked, max_batch_size=64, executor=executor)
        values = [float(number) for number in range(16)]
        values[3:3] = values[9:9] = [POISON]
        sent = (batcher.submit(rows(value)) for value in values)
        found = await asyncio.gather(*sent, return_exceptions=True)
        for value, one in zip(values, found, strict=True):
            if value == POISON:
                assert isinstance(one, IndexError)
            else:
                assert not isinstance(one, BaseException), value
                assert one.tolist() == [[2 * value]]
        return found, batcher.num_splits

    with ThreadPoolExecutor(1) as executor:
        _, num_splits = asyncio.run(scenario(executor if in_thread else None))
    assert 1 <= num_splits <= 10, "halves that are fine are not computed one by one"


def test_any_mix_of_poison_and_sizes_gives_what_each_gets_alone() -> None:
    choose = random.Random(0)
    for _ in range(200):
        counts = [choose.randint(1, 3) for _ in range(choose.randint(1, 9))]
        inputs = [rows(*choose.choices([POISON, 1.0, 2.0, 3.0, 4.0], k=count)) for count in counts]
        found = compute_each(checked, inputs, lambda: None)
        for x, one in zip(inputs, found, strict=True):
            if (x == POISON).any():
                assert isinstance(one, IndexError)
            else:
                assert isinstance(one, np.ndarray)
                assert one.tolist() == (2 * x).tolist()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_batch_too_large_for_memory_is_computed_in_parts(error: Exception) -> None:
    sizes: list[int] = []

    def small_memory(x: Array) -> Array:
        sizes.append(len(x))
        if len(x) > 2:
            raise error
        return x + 1

    inputs = [rows(1), rows(*range(7)), rows(5, 6)]
    found = compute_each(small_memory, inputs, lambda: None)
    assert [np.asarray(one).ravel().tolist() for one in found] == [
        [2],
        [1, 2, 3, 4, 5, 6, 7],
        [6, 7],
    ]
    assert max(sizes[1:]) < sizes[0]
    assert compute_alone(small_memory, rows(*range(5)), lambda: None).ravel().tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]
    with pytest.raises(IndexError):
        compute_alone(checked, rows(0, POISON), lambda: None)


def test_no_request_gets_the_rows_of_another_when_the_model_drops_some() -> None:
    async def scenario() -> list[Any]:
        batcher = Batcher(lambda x: x[: max(1, len(x) - 1)], max_batch_size=8)
        sent = (batcher.submit(x) for x in (rows(1), rows(2, 3), rows(4)))
        return await asyncio.gather(*sent, return_exceptions=True)

    one, two, three = asyncio.run(scenario())
    assert one.tolist() == [[1]]
    assert three.tolist() == [[4]]
    assert isinstance(two, ValueError)
    assert "1 rows for 2" in str(two)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tables"), small_models.table_features())


def test_only_the_poisoned_request_of_an_endpoint_is_answered_500(tables: Store) -> None:
    async def scenario(service: Service, routes: Routes) -> tuple[list[int], int]:
        assert service.current is not None
        batcher = service.current.batcher
        forward = batcher.forward

        def raises_for_old_people(x: Array) -> Array:
            if (x[:, 0] > 90).any():
                raise IndexError("index out of range in self")
            return forward(x)

        fake_forward(service, raises_for_old_people)
        good = small_models.table_rows(16)
        sent = [*({"rows": [row]} for row in good), {"rows": [{**good[0], "age": 1000}]}]
        answers = await asyncio.gather(*(routes.respond(post("/predict", one)) for one in sent))
        return [answer.status_code for answer in answers], batcher.num_splits

    codes, num_splits = run(tables.settings(), scenario)
    assert codes == [200] * 16 + [500]
    assert num_splits >= 1
