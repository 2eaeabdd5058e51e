"""Limits of a replica: refusals, order, changes of the limits, and no slot lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.admission import _SPARE_BODIES, AdmissionQueue

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


def test_admit_refuses_when_room_for_bodies_is_full() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(2 + 3 + _SPARE_BODIES)]
        assert "being read" in await refused(admission)
        slots.pop().release()
        slots.append(await admission.admit())
        for slot in slots:
            slot.release()
        (await admission.admit()).release()

    run(scenario, num_ongoing=2, max_queued=3)


class Dribbled:
    """A body of which some bytes have arrived, and the rest comes when it is told to."""

    def __init__(self, num_read: int) -> None:
        self.num_read = num_read
        self.is_over = asyncio.Event()

    async def read(self, max_bytes: int) -> bytes:
        await self.is_over.wait()
        return b"x" * max_bytes


@pytest.mark.parametrize("max_queued", [3, -1])
def test_slowest_body_makes_way_for_another_request(max_queued: int) -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        num_places = 2 + max(0, max_queued) + _SPARE_BODIES
        bodies = [Dribbled(100_000) for _ in range(num_places)]
        bodies[3].num_read = 7
        slots = [await admission.admit() for _ in bodies]
        reading = [
            asyncio.create_task(slot.read(body, 5))
            for slot, body in zip(slots, bodies, strict=True)
        ]
        await asyncio.sleep(0)

        async def end(index: int) -> None:
            with pytest.raises(RequestError, match="too slowly while others wait") as error:
                await reading[index]
            assert (error.value.status, error.value.headers) == (408, {"retry-after": "1"})
            slots[index].release()

        newcomer = asyncio.create_task(admission.admit())
        await end(3)
        slots[3] = await newcomer
        assert [task.done() for task in reading].count(True) == 1, "one for one"
        # What has arrived is not slow, however full it is.
        for body in bodies:
            body.is_over.set()
        del reading[3]
        assert await asyncio.gather(*reading) == [b"xxxxx"] * (num_places - 1)
        if max_queued >= 0:
            assert "being read" in await refused(admission)
        for slot in slots:
            slot.release()
        assert admission.num_inside == 0

    run(scenario, num_ongoing=2, max_queued=max_queued)


def test_body_that_has_just_begun_is_not_the_slowest() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        old, new = await admission.admit(), await admission.admit()
        reading = [asyncio.create_task(slot.read(Dribbled(0), 5)) for slot in (old, new)]
        await asyncio.sleep(0)
        # The old one has sent a byte a second, the new one nothing yet.
        old._began_s = now_s - 5.0
        old._incoming.num_read = 5
        assert admission._end_slowest()
        with pytest.raises(RequestError):
            await reading[0]
        assert not reading[1].done()
        reading[1].cancel()
        await asyncio.wait({reading[1]})
        old.release()
        new.release()

    run(scenario, num_ongoing=2, max_queued=0)


def test_time_limit_of_the_whole_request_is_not_taken_for_that_of_the_body() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slot = await admission.admit()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await slot.read(Dribbled(0), 5)
        slot.release()

    run(scenario, num_ongoing=1, max_queued=0)


def test_queue_is_first_come_first_served_and_limited() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        first, *others = [await admission.admit() for _ in range(3)]
        await first.start_computing()
        tasks = [asyncio.create_task(other.start_computing()) for other in others]
        await asyncio.sleep(0)
        assert (admission.num_waiting, admission.num_in_work) == (2, 1)
        assert "2 requests are waiting already" in await refused(admission)
        first.release()
        await tasks[0]
        assert not tasks[1].done()
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        for other in others:
            other.release()

    run(scenario, num_ongoing=1, max_queued=2)


def test_queue_of_zero_refuses_what_would_wait() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + _SPARE_BODIES)]
        assert "being read" in await refused(admission)
        await slots[0].start_computing()
        with pytest.raises(RequestError, match="0 requests are waiting already"):
            await slots[1].start_computing()
        assert "0 requests are waiting already" in await refused(admission)
        for slot in slots:
            slot.release()

    run(scenario, num_ongoing=1, max_queued=0)


def test_unlimited_queue_waits_to_read_further_bodies() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + _SPARE_BODIES)]
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


def test_resize_applies_while_requests_are_inside() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(3)]
        await slots[0].start_computing()
        tasks = [asyncio.create_task(slot.start_computing()) for slot in slots[1:]]
        await asyncio.sleep(0)
        admission.resize(2, 1)
        await tasks[0]
        assert (admission.num_waiting, admission.num_in_work) == (1, 2)
        assert "1 requests are waiting already" in await refused(admission)
        admission.resize(3, 0)
        await tasks[1]
        for slot in slots:
            slot.release()

    run(scenario, num_ongoing=1, max_queued=2)


@pytest.mark.parametrize("is_released_first", [True, False])
@pytest.mark.parametrize("max_queued", [5, -1])
def test_cancelled_request_passes_its_turn_to_the_next(
    is_released_first: bool, max_queued: int
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
        if is_released_first:
            first.release()
            tasks[0].cancel()
        else:
            tasks[0].cancel()
            first.release()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert not admission.num_inside

    run(scenario, num_ongoing=1, max_queued=max_queued)


def test_cancelled_admit_does_not_lose_room() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(1 + _SPARE_BODIES)]
        tasks = [asyncio.create_task(admission.admit()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        slots[0].release()
        tasks[0].cancel()
        slots.append(await tasks[2])
        for slot in slots[1:]:
            slot.release()
        assert not admission.num_inside

    run(scenario, num_ongoing=1, max_queued=-1)


def test_resize_to_less_waits_until_enough_have_left() -> None:
    async def scenario(admission: AdmissionQueue) -> None:
        slots = [await admission.admit() for _ in range(4)]
        for slot in slots[:3]:
            await slot.start_computing()
        admission.resize(1, 5)
        late = asyncio.create_task(slots[3].start_computing())
        for slot in slots[:3]:
            await asyncio.sleep(0)
            assert not late.done()
            slot.release()
        await late
        assert admission.num_in_work == 1
        slots[3].release()

    run(scenario, num_ongoing=3, max_queued=5)


def test_resize_keeps_the_order_of_waiting_requests() -> None:
    order: list[int] = []

    async def scenario(admission: AdmissionQueue) -> None:
        async def request(number: int) -> None:
            slot = await admission.admit()
            await slot.start_computing()
            order.append(number)
            await asyncio.sleep(0)
            slot.release()

        first = await admission.admit()
        await first.start_computing()
        tasks = [asyncio.create_task(request(number)) for number in range(6)]
        await asyncio.sleep(0)
        assert admission.num_waiting == 6
        admission.resize(2, 10)
        first.release()
        await asyncio.gather(*tasks)

    run(scenario, num_ongoing=1, max_queued=10)
    assert order == list(range(6))
