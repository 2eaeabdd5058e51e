"""What takes too long ends, what does not goes on, and who is cancelled by somebody else is not told of deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raydc.serve.http.deadlines import INTERVAL_S, DeadlineError, Deadlines

LONG_S = 60.0


def run(scenario: Callable[[Deadlines], Awaitable[None]]) -> None:
    async def main() -> None:
        deadlines = Deadlines()
        async with asyncio.timeout(LONG_S):
            await scenario(deadlines)
        assert not deadlines._running

    asyncio.run(main())


async def wait(deadlines: Deadlines, timeout_s: float | None, event: asyncio.Event) -> str:
    with deadlines.after(timeout_s):
        await event.wait()
    return "done"


def test_what_takes_too_long_ends_and_only_that() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        event = asyncio.Event()
        tasks = [
            asyncio.create_task(wait(deadlines, timeout_s, event))
            for timeout_s in (0.05, LONG_S, 0.01, None)
        ]
        await asyncio.wait({tasks[0], tasks[2]})
        event.set()
        assert await asyncio.gather(*tasks[1::2]) == ["done", "done"]
        for task in tasks[::2]:
            with pytest.raises(DeadlineError):
                await task

    run(scenario)


def test_a_task_goes_on_after_its_deadline() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        for _ in range(2):
            with pytest.raises(DeadlineError):
                await wait(deadlines, 0.01, asyncio.Event())
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(scenario)


def test_who_is_cancelled_ends_so() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        task = asyncio.create_task(wait(deadlines, LONG_S, asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario)


def test_an_error_of_its_own_comes_through() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError, match="its own"), deadlines.after(LONG_S):
            raise TimeoutError("its own")

    run(scenario)


def test_nobody_looks_when_nothing_runs() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        event = asyncio.Event()
        event.set()
        await wait(deadlines, LONG_S, event)
        while deadlines._is_looking:
            await asyncio.sleep(0.01)
        with pytest.raises(DeadlineError):
            await wait(deadlines, 0.01, asyncio.Event())

    run(scenario)


def test_who_is_interrupted_may_take_its_time_to_end() -> None:
    async def scenario(deadlines: Deadlines) -> None:
        ended: list[str] = []

        async def tidy() -> None:
            with deadlines.after(0.01):
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(5 * INTERVAL_S)
                    ended.append("tidied")

        with pytest.raises(DeadlineError):
            await tidy()
        assert ended == ["tidied"]

    run(scenario)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_came_of_an_interruption_comes_through(is_cancelled: bool) -> None:
    async def scenario(deadlines: Deadlines) -> None:
        async def broken() -> None:
            with deadlines.after(0.01):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if not is_cancelled:
                        raise ValueError("its own") from None
                    task.cancel()
                    raise

        task = asyncio.create_task(broken())
        with pytest.raises(asyncio.CancelledError if is_cancelled else ValueError):
            await task

    run(scenario)


def test_one_timer_is_enough_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = Deadlines._look
    monkeypatch.setattr(
        Deadlines, "_look", lambda self: (looks.append(len(self._running)), look(self))
    )

    async def scenario(deadlines: Deadlines) -> None:
        event = asyncio.Event()
        tasks = [asyncio.create_task(wait(deadlines, LONG_S, event)) for _ in range(20)]
        while len(looks) < 3:
            await asyncio.sleep(INTERVAL_S / 4)
        assert looks[:3] == [20, 20, 20]
        assert len(looks) < 10
        event.set()
        await asyncio.gather(*tasks)

    run(scenario)
