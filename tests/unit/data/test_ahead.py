"""Items that are made by a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from raydc.data.ahead import make_ahead


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
