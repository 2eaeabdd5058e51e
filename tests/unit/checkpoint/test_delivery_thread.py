"""The thread that brings copies to where they are safe."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from raydc.checkpoint.delivery_thread import DeliveryThread

LONG_S = 30.0


class FakeCopy(SimpleNamespace):
    """Counts its users."""

    def __init__(self, step: int) -> None:
        super().__init__(step=step, users=0)

    def hold(self) -> None:
        self.users += 1

    def let_go(self) -> None:
        self.users -= 1


class Place:
    """Takes copies when the test lets it: refuses so many tries first."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.began, self.may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.taken: list[int] = []
        self.failures: list[tuple[int, bool]] = []

    def bring(self, copy: Any) -> None:
        self.began.release()
        assert self.may_go_on.acquire(timeout=LONG_S)
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, "No space left on device")
        self.taken.append(copy.step)

    def failed(self, copy: Any, error: OSError, is_last_try: bool) -> None:
        self.failures.append((copy.step, is_last_try))

    def step_on(self, times: int = 1) -> None:
        for _ in range(times):
            self.may_go_on.release()


def test_one_at_a_time() -> None:
    place, first, second = Place(), FakeCopy(1), FakeCopy(2)
    courier = DeliveryThread("test", place.bring, place.failed)
    assert courier.wait(0.0)
    courier.take(first)  # type: ignore[arg-type]
    assert place.began.acquire(timeout=LONG_S)
    assert not courier.wait(0.0)
    assert first.users == 1
    place.step_on()
    assert courier.wait(LONG_S)
    courier.take(second)  # type: ignore[arg-type]
    place.step_on()
    assert courier.wait(LONG_S, idle=True)
    assert (place.taken, first.users, second.users) == ([1, 2], 0, 0)


def test_refused_copy_gives_way_to_a_newer_one() -> None:
    place, copies = Place(refusals=1), [FakeCopy(step) for step in range(3)]
    courier = DeliveryThread("test", place.bring, place.failed, pauses_s=(0.2,))
    courier.take(copies[0])  # type: ignore[arg-type]
    place.step_on()
    assert courier.wait(LONG_S)  # Refused: nobody waits for it.
    assert not courier.wait(0.0, idle=True)
    courier.take(copies[1])  # type: ignore[arg-type]
    courier.take(copies[2])  # type: ignore[arg-type]
    assert copies[1].users == 0
    place.step_on()
    assert courier.wait(LONG_S, idle=True)
    assert (place.taken, place.failures) == ([2], [(0, False)])
    assert [copy.users for copy in copies] == [0, 0, 0]


def test_tries_have_a_limit_and_the_next_copy_starts_anew() -> None:
    place, first, second = Place(refusals=3), FakeCopy(1), FakeCopy(2)
    courier = DeliveryThread("test", place.bring, place.failed, pauses_s=(0.0, 0.0))
    courier.take(first)  # type: ignore[arg-type]
    place.step_on(3)
    assert courier.wait(LONG_S, idle=True)
    assert (place.taken, place.failures, first.users) == ([], [(1, False), (1, True)], 0)
    courier.take(second)  # type: ignore[arg-type]
    place.step_on()
    assert courier.wait(LONG_S, idle=True)
    assert place.taken == [2]


def test_unexpected_error_reaches_the_thread_that_trains() -> None:
    def bring(copy: Any) -> None:
        raise ZeroDivisionError("a bug")

    courier = DeliveryThread("test", bring, Place().failed)
    courier.take(FakeCopy(1))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        courier.wait(LONG_S)
