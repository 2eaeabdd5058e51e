"""The thread that brings copies to a safe place."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from raydc.checkpoint.delivery_thread import DeliveryThread

LONG_S = 30.0


class CountedCopy(SimpleNamespace):
    """Counts its users."""

    def __init__(self, step: int) -> None:
        super().__init__(step=step, users=0)

    def hold(self) -> None:
        self.users += 1

    def release(self) -> None:
        self.users -= 1


class GatedPlace:
    """Takes a copy for each permit of the test, and refuses the first ones.

    Args:
        num_refusals: Attempts that it refuses.
    """

    def __init__(self, num_refusals: int = 0) -> None:
        self.num_refusals = num_refusals
        self.started, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        self.taken: list[int] = []
        self.failures: list[tuple[int, bool]] = []

    def deliver(self, copy: Any) -> None:
        self.started.release()
        assert self.permits.acquire(timeout=LONG_S)
        if self.num_refusals:
            self.num_refusals -= 1
            raise OSError(28, "No space left on device")
        self.taken.append(copy.step)

    def on_failure(self, copy: Any, error: OSError, is_last_attempt: bool) -> None:
        assert error.errno == 28
        self.failures.append((copy.step, is_last_attempt))

    def permit(self, times: int = 1) -> None:
        for _ in range(times):
            self.permits.release()


def make(place: GatedPlace, *pauses_s: float) -> Any:
    return DeliveryThread("test", place.deliver, place.on_failure, pauses_s)


def test_submit_delivers_one_copy_at_a_time() -> None:
    place, first, second = GatedPlace(), CountedCopy(1), CountedCopy(2)
    thread = make(place)
    assert thread.wait_until_accepting(0.0)
    thread.submit(first)
    assert place.started.acquire(timeout=LONG_S)
    assert not thread.wait_until_accepting(0.0)
    assert first.users == 1
    place.permit()
    assert thread.wait_until_accepting(LONG_S)
    thread.submit(second)
    place.permit()
    assert thread.wait_until_idle(LONG_S)
    assert (place.taken, first.users, second.users) == ([1, 2], 0, 0)


def test_refused_copy_is_replaced_by_the_newest() -> None:
    place, copies = GatedPlace(num_refusals=1), [CountedCopy(step) for step in range(3)]
    thread = make(place, 0.2)
    thread.submit(copies[0])
    place.permit()
    # A place that refuses accepts a newer copy, and is not idle.
    assert thread.wait_until_accepting(LONG_S)
    assert not thread.wait_until_idle(0.0)
    thread.submit(copies[1])
    thread.submit(copies[2])
    assert copies[1].users == 0
    place.permit()
    assert thread.wait_until_idle(LONG_S)
    assert (place.taken, place.failures) == ([2], [(0, False)])
    assert [copy.users for copy in copies] == [0, 0, 0]


def test_copy_refused_by_all_attempts_is_dropped_for_the_next_one() -> None:
    place, first, second = GatedPlace(num_refusals=3), CountedCopy(1), CountedCopy(2)
    thread = make(place, 0.0, 0.0)
    thread.submit(first)
    place.permit(3)
    assert thread.wait_until_idle(LONG_S)
    assert (place.taken, place.failures, first.users) == ([], [(1, False), (1, True)], 0)
    thread.submit(second)
    place.permit()
    assert thread.wait_until_idle(LONG_S)
    assert place.taken == [2]


def test_unexpected_error_is_raised_in_the_waiting_thread() -> None:
    def deliver(copy: Any) -> None:
        raise ZeroDivisionError("a bug")

    thread: Any = DeliveryThread("test", deliver, GatedPlace().on_failure)
    thread.submit(CountedCopy(1))
    for wait in (thread.wait_until_accepting, thread.wait_until_idle):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            wait(LONG_S)
