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

    def __init__(self, step: int, best_step: int | None = None) -> None:
        super().__init__(step=step, best_step=best_step, users=0)

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


def make(place: GatedPlace, *pauses_s: float, keeps_best: bool = True) -> Any:
    return DeliveryThread("test", place.deliver, place.on_failure, pauses_s, keeps_best)


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


@pytest.mark.parametrize("keeps_best", [True, False])
def test_best_state_is_not_replaced_by_newer_ones(keeps_best: bool) -> None:
    place = GatedPlace(num_refusals=1)
    copies = [CountedCopy(1, 1), CountedCopy(2, 1), CountedCopy(3, 1)]
    thread = make(place, 0.2, keeps_best=keeps_best)
    thread.submit(copies[0])
    place.permit()
    assert thread.wait_until_accepting(LONG_S)
    thread.submit(copies[1])
    thread.submit(copies[2])
    # Between the two only the newest counts.
    assert [copy.users for copy in copies] == [1, 0, 1]
    place.permit(2)
    assert thread.wait_until_idle(LONG_S)
    assert place.taken == ([1, 3] if keeps_best else [3])
    assert [copy.users for copy in copies] == [0, 0, 0]


def test_best_state_waits_behind_a_refused_one_until_a_better_one_comes() -> None:
    place = GatedPlace(num_refusals=1)
    copies = [CountedCopy(1), CountedCopy(2, 2), CountedCopy(3, 2), CountedCopy(4, 4)]
    thread = make(place, 0.2)
    thread.submit(copies[0])
    place.permit()
    assert thread.wait_until_accepting(LONG_S)
    thread.submit(copies[1])
    thread.submit(copies[2])
    assert [copy.users for copy in copies] == [1, 1, 1, 0]
    thread.submit(copies[3])
    assert [copy.users for copy in copies] == [1, 0, 0, 1]
    place.permit()
    assert thread.wait_until_idle(LONG_S)
    assert place.taken == [4]


def test_best_state_refused_by_all_attempts_goes_with_the_next_one() -> None:
    place, best, next_, last = GatedPlace(num_refusals=3), *map(CountedCopy, (1, 2, 3), (1, 1, 3))
    thread = make(place, 0.0, 0.0)
    thread.submit(best)
    place.permit(3)
    assert thread.wait_until_idle(LONG_S)
    assert (place.failures, best.users) == ([(1, False), (1, True)], 1)
    assert thread.holds_refused
    place.num_refusals = 3
    thread.submit(next_)
    # The best is refused once more, then the next one arrives, and then the best.
    place.permit(5)
    assert thread.wait_until_idle(LONG_S)
    assert (place.taken, best.users, next_.users) == ([2, 1], 0, 0)
    assert not thread.holds_refused
    # A kept one that is the best no longer is dropped.
    place.num_refusals = 3
    thread.submit(best)
    place.permit(3)
    assert thread.wait_until_idle(LONG_S)
    thread.submit(last)
    assert best.users == 0
    place.permit()
    assert thread.wait_until_idle(LONG_S)
    assert place.taken == [2, 1, 3]


def test_unexpected_error_is_raised_in_the_waiting_thread() -> None:
    def deliver(copy: Any) -> None:
        raise ZeroDivisionError("a bug")

    thread: Any = DeliveryThread("test", deliver, GatedPlace().on_failure)
    thread.submit(CountedCopy(1))
    for wait in (thread.wait_until_accepting, thread.wait_until_idle):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            wait(LONG_S)


def test_a_thread_that_is_ended_delivers_what_it_has_and_holds_nothing() -> None:
    place = GatedPlace()
    delivery, copy = make(place), CountedCopy(1)
    delivery.submit(copy)
    assert place.started.acquire(timeout=LONG_S)
    thread = delivery._thread
    delivery.end()
    assert thread.is_alive()
    place.permit()
    thread.join(LONG_S)
    assert (thread.is_alive(), place.taken, copy.users) == (False, [1], 0)
    # One that waits for more ends at once, and one that never began has no thread.
    delivery = make(place)
    place.permit()
    delivery.submit(CountedCopy(2))
    assert delivery.wait_until_idle(LONG_S)
    delivery.end()
    delivery._thread.join(LONG_S)
    assert not delivery._thread.is_alive()
    make(place).end()


def test_the_best_state_that_was_refused_is_let_go_at_the_end() -> None:
    place = GatedPlace(num_refusals=1)
    delivery, best = make(place), CountedCopy(1, best_step=1)
    place.permit()
    delivery.submit(best)
    assert delivery.wait_until_idle(LONG_S)
    assert (delivery.holds_refused, best.users) == (True, 1)
    delivery.end()
    assert best.users == 0
