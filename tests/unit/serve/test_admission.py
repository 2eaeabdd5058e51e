"""A replica holds as many requests as it may, and gives back every place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica import admission as module
from raydc.serve.replica.admission import AdmissionQueue

WAIT_S = 20.0


def run(
    scenario: Callable[[AdmissionQueue], Awaitable[None]], num_ongoing: int, max_queued: int
) -> None:
    async def main() -> None:
        admission = AdmissionQueue()
        admission.resize(num_ongoing, max_queued)
        async with asyncio.timeout(WAIT_S):
            await scenario(admission)
        assert (admission.num_waiting, admission.num_in_work) == (0, 0)

    asyncio.run(main())


async def refused(admission: AdmissionQueue) -> str:
    with pytest.raises(RequestError) as error:
        await admission.admit()
    assert (error.value.status, error.value.headers) == (429, {"retry-after": "1"})
    return error.value.message


def test_so_many_bodies_are_held_and_no_more() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(2 + 3 + module._SPARE)]
        assert "being read" in await refused(admission)
        slots.pop().release()
        slots.append(await admission.admit())
        for slot in slots:
            slot.release()
        (await admission.admit()).release()

    run(scenario, num_ongoing=2, max_queued=3)


def test_so_many_wait_and_a_place_goes_to_who_came_first() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        first, *others = [await admission.admit() for _ in range(3)]
        await first.start_computing()
        tasks = [asyncio.create_task(other.start_computing()) for other in others]
        await asyncio.sleep(0)
        assert (admission.num_waiting, admission.num_in_work) == (2, 1)
        assert "2 requests wait already" in await refused(admission)
        first.release()
        await tasks[0]
        assert not tasks[1].done()
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        for other in others:
            other.release()

    run(scenario, num_ongoing=1, max_queued=2)


def test_without_a_queue_what_has_no_place_is_refused() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + module._SPARE)]
        assert "being read" in await refused(admission)
        await slots[0].start_computing()
        with pytest.raises(RequestError, match="0 requests wait already"):
            await slots[1].start_computing()
        assert "0 requests wait already" in await refused(admission)
        for slot in slots:
            slot.release()

    run(scenario, num_ongoing=1, max_queued=0)


def test_without_a_limit_on_the_queue_bodies_wait_to_be_read() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + module._SPARE)]
        late = [asyncio.create_task(admission.admit()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in late)
        await slots[0].start_computing()
        slots.pop(0).release()
        slots.append(await late[0])
        await asyncio.sleep(0)
        assert not late[1].done(), "one for one"
        slots.pop(0).release()
        slots.append(await late[1])
        for slot in slots:
            slot.release()

    run(scenario, num_ongoing=1, max_queued=-1)


def test_limits_change_while_requests_are_inside() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(3)]
        await slots[0].start_computing()
        tasks = [asyncio.create_task(slot.start_computing()) for slot in slots[1:]]
        await asyncio.sleep(0)
        admission.resize(2, 1)
        await tasks[0]
        assert (admission.num_waiting, admission.num_in_work) == (1, 2)
        assert "1 requests wait already" in await refused(admission)
        admission.resize(3, 0)
        await tasks[1]
        for slot in slots:
            slot.release()

    run(scenario, num_ongoing=1, max_queued=2)


@pytest.mark.parametrize("is_called_first", [True, False])
@pytest.mark.parametrize("max_queued", [5, -1])
def test_who_is_cancelled_at_its_turn_leaves_it_to_the_next(
    is_called_first: bool, max_queued: int
) -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        first = await admission.admit()
        await first.start_computing()

        async def ask() -> None:
            slot = await admission.admit()
            try:
                await slot.start_computing()
            finally:
                slot.release()

        tasks = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        if is_called_first:
            first.release()
            tasks[0].cancel()
        else:
            tasks[0].cancel()
            first.release()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert not admission._num_inside

    run(scenario, num_ongoing=1, max_queued=max_queued)


def test_who_waits_outside_may_be_cancelled() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + module._SPARE)]
        tasks = [asyncio.create_task(admission.admit()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        slots[0].release()
        tasks[0].cancel()
        slots.append(await tasks[2])
        for slot in slots[1:]:
            slot.release()
        assert not admission._num_inside

    run(scenario, num_ongoing=1, max_queued=-1)
