"""Batches take waiting requests in order, up to their limits."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raydc.serve.replica.batching import Array, Batcher


def double(x: Array) -> Array:
    return x * 2


def rows(*values: float) -> Array:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


def test_submit_joins_concurrent_requests_and_returns_own_rows() -> None:
    async def scenario() -> tuple[list[Array], list[int]]:
        batcher = Batcher(double, max_batch_size=8)
        answers = await asyncio.gather(
            *(batcher.submit(rows(i, i + 0.5)[: 1 + i % 2]) for i in range(5))
        )
        return answers, list(batcher.batch_sizes)

    answers, batch_sizes = asyncio.run(scenario())
    assert batch_sizes == [5]
    assert [answer.reshape(-1).tolist() for answer in answers] == [[0], [2, 3], [4], [6, 7], [8]]


def test_batch_has_at_most_max_batch_size_requests() -> None:
    async def scenario() -> list[int]:
        batcher = Batcher(double, max_batch_size=4)
        await asyncio.gather(*(batcher.submit(rows(i)) for i in range(10)))
        return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) == [4, 4, 2]


def test_batch_joins_rows_up_to_the_limit_only() -> None:
    async def scenario() -> list[int]:
        batcher = Batcher(double, max_batch_size=4)
        inputs = [rows(*range(count)) for count in (1, 3, 2, 9, 1, 1)]
        answers = await asyncio.gather(*(batcher.submit(x) for x in inputs))
        assert [len(answer) for answer in answers] == [1, 3, 2, 9, 1, 1]
        return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) == [2, 1, 1, 2]


def test_requests_during_a_forward_pass_form_the_next_batch() -> None:
    started, go_on = threading.Event(), threading.Event()

    def held(x: Array) -> Array:
        started.set()
        assert go_on.wait(timeout=30)
        return x

    async def scenario() -> list[int]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(held, max_batch_size=16, executor=executor)
            first = asyncio.create_task(batcher.submit(rows(0)))
            await asyncio.to_thread(started.wait, 30)
            others = [asyncio.create_task(batcher.submit(rows(i))) for i in range(3)]
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(first, *others)
            return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) == [1, 3]


def test_wait_timeout_holds_a_batch_until_it_is_full() -> None:
    async def scenario() -> list[int]:
        batcher = Batcher(double, max_batch_size=3, wait_timeout_s=60.0)
        first = asyncio.create_task(batcher.submit(rows(0)))
        await asyncio.sleep(0.01)
        assert not first.done()
        await asyncio.gather(first, batcher.submit(rows(1)), batcher.submit(rows(2)))
        return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) == [3]


def test_wait_timeout_ends_with_a_batch_of_one() -> None:
    async def scenario() -> list[int]:
        batcher = Batcher(double, max_batch_size=3, wait_timeout_s=0.01)
        await batcher.submit(rows(0))
        return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) == [1]


def test_failed_forward_fails_only_its_own_requests() -> None:
    failures = [ValueError("broken")]

    def forward(x: Array) -> Array:
        if failures:
            raise failures.pop()
        return x

    async def scenario() -> float:
        batcher = Batcher(forward, max_batch_size=2)
        with pytest.raises(ValueError, match="broken"):
            await batcher.submit(rows(1))
        return float((await batcher.submit(rows(7)))[0, 0])

    assert asyncio.run(scenario()) == 7


def test_cancelled_request_is_not_computed() -> None:
    async def scenario() -> list[int]:
        batcher = Batcher(double, max_batch_size=8)
        gone = asyncio.create_task(batcher.submit(rows(1)))
        stays = asyncio.create_task(batcher.submit(rows(2)))
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        return list(batcher.batch_sizes)

    assert asyncio.run(scenario()) in ([1], [2])


@pytest.mark.parametrize(
    ("max_batch_size", "late", "expected"),
    [
        (8, [0, 0, 1, 2, 3, 10], [5, 1]),  # Until a round of the loop brings nothing.
        (4, [0, 0, 1, 2, 3, 10], [4, 1, 1]),  # Or the batch is full.
        (8, [0, 3], [1, 1]),  # One that is alone does not wait.
    ],
)
def test_batch_grows_while_each_loop_round_brings_requests(
    max_batch_size: int, late: list[int], expected: list[int]
) -> None:
    sizes: list[int] = []

    def forward(x: Array) -> Array:
        sizes.append(len(x))
        return x

    async def scenario() -> None:
        batcher = Batcher(forward, max_batch_size)

        async def ask(num_rounds: int) -> None:
            for _ in range(num_rounds):
                await asyncio.sleep(0)
            await batcher.submit(rows(1.0))

        await asyncio.gather(*(ask(num_rounds) for num_rounds in late))

    asyncio.run(scenario())
    assert sizes == expected


def test_wait_timeout_ends_when_the_rows_fill_the_batch() -> None:
    async def scenario() -> None:
        batcher = Batcher(double, max_batch_size=4, wait_timeout_s=60.0)
        async with asyncio.timeout(20.0):
            for _ in range(2):
                assert (await batcher.submit(rows(1.0, 2.0, 3.0, 4.0))).tolist() == [
                    [2.0],
                    [4.0],
                    [6.0],
                    [8.0],
                ]
            await asyncio.gather(batcher.submit(rows(1.0, 2.0)), batcher.submit(rows(1.0, 2.0)))

    asyncio.run(scenario())
