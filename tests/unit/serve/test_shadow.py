"""Copies of requests are compared, and failures of a shadow only counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from raydc.errors import DataError
from raydc.serve.replica.shadow import ShadowRunner

YES, NO = {"label": "yes"}, {"label": "no"}


def copies(given: list[dict[str, Any]], found: Callable[[], Any], times: int = 1) -> dict[str, Any]:
    runner = ShadowRunner()

    async def main() -> None:
        for _ in range(times):
            runner.submit(2, lambda: given, found)
        await runner.wait()

    asyncio.run(asyncio.wait_for(main(), 30))
    counted = runner.counts()
    assert counted is not None
    return counted


def test_shadow_is_compared_row_by_row() -> None:
    counted = copies([YES, YES], lambda: [YES, NO])
    assert (counted["num_copied"], counted["num_rows"], counted["num_different"]) == (1, 2, 1)
    assert copies([YES], lambda: [{"value": 1.0}])["num_different"] == 1
    assert copies([{"value": 1.0}], lambda: [{"value": 1.00001}])["num_different"] == 0


@pytest.mark.parametrize(
    "fault", [DataError("no such column"), ValueError("broken"), MemoryError(), None]
)
def test_failed_shadow_is_only_counted(fault: Exception | None) -> None:
    def found() -> Any:
        if fault is not None:
            raise fault
        return [YES, NO]  # One row too many.

    counted = copies([YES], found)
    assert (counted["num_copied"], counted["num_failed"], counted["num_rows"]) == (1, 1, 0)


def test_busy_shadow_leaves_copies_out() -> None:
    counted = copies([YES], lambda: [YES], times=50)
    assert counted["num_copied"] + counted["num_left_out"] == 50
    assert counted["num_left_out"] >= 46, "all were handed over in one round of the loop"
