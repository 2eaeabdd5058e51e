"""Signals whose interruption is swallowed are sent again; those that are handled are not."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from raydc.engine import interruption

_WAIT_S = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What each look of the watching thread has found."""
    found: list[bool] = []
    look = interruption._unwinds

    def recorded() -> bool:
        found.append(look())
        return found[-1]

    monkeypatch.setattr(interruption, "_unwinds", recorded)
    return found


def swallow() -> None:
    """Does what a library does around an import that may fail."""
    try:
        # Not SIGINT, which a job in the background ignores.
        signal.raise_signal(signal.SIGTERM)
        wait_until(lambda: False)
    except:  # noqa: E722
        pass


def is_swallowed_twice() -> None:
    with interruption.catch_signals():
        swallow()
        swallow()
        wait_until(lambda: False)


def test_swallowed_interruption_is_raised_again() -> None:
    with pytest.raises(interruption.Interruption) as raised:
        is_swallowed_twice()
    assert raised.value.number == signal.SIGTERM


def cleans_up(looks: list[bool], cleaned: list[str]) -> None:
    with interruption.catch_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
            wait_until(lambda: False)
        finally:
            wait_until(lambda: len(looks) >= 4)
            cleaned.append("in finally")


def test_cleanup_after_an_interruption_is_not_disturbed(looks: list[bool]) -> None:
    cleaned: list[str] = []
    with pytest.raises(interruption.Interruption):
        cleans_up(looks, cleaned)
    assert cleaned
    assert all(looks)
