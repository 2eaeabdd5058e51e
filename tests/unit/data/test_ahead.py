"""Items that are made by a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from raydc.data.ahead import make_ahead, map_ahead


def test_items_keep_their_order() -> None:
    assert list(make_ahead(range(100))) == list(range(100))
    assert list(make_ahead([])) == []


def test_the_next_item_is_made_while_the_caller_works() -> None:
    is_made = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        is_made.set()
        yield "second"

    ahead = make_ahead(items())
    assert next(ahead) == "first"
    assert is_made.wait(60)
    assert list(ahead) == ["second"]


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("row 2")

    ahead = make_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 2"):
        next(ahead)


def test_a_caller_that_stops_ends_the_thread() -> None:
    started = set(threading.enumerate())
    ahead = make_ahead(iter(int, 1))
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread not in started]


def test_results_of_several_threads_keep_their_order() -> None:
    # The first result can only come after the second one.
    is_second_done = threading.Event()

    def square(number: int) -> int:
        if number == 0:
            assert is_second_done.wait(60)
        if number == 1:
            is_second_done.set()
        return number * number

    assert list(map_ahead(square, range(50), 2)) == [number * number for number in range(50)]
    assert list(map_ahead(square, [], 2)) == []


def test_arguments_are_taken_only_as_far_as_results_are_wanted() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(str, numbers(), 3)
    assert [next(results), next(results)] == ["0", "1"]
    assert len(taken) <= 6
    results.close()  # type: ignore[attr-defined]


def test_an_error_of_an_argument_comes_behind_the_results_before_it() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("row 3")

    results = map_ahead(str, numbers(), 4)
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(ValueError, match="row 3"):
        next(results)


def test_an_error_of_a_result_comes_in_its_place() -> None:
    def inverse(number: int) -> float:
        return 1 / number

    results = map_ahead(inverse, [1, 2, 0, 4], 3)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
