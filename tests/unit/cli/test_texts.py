"""Sizes, ages and numbers as people read them."""

from __future__ import annotations

import pytest

from raydc.cli.texts import age_text, number_ranges, size_text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([1, 2], "1, 2"), ([1, 2, 3, 5, 7, 8, 9, 10], "1-3, 5, 7-10")],
)
def test_number_ranges(numbers: list[int], text: str) -> None:
    assert number_ranges(numbers) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12345, "12.3 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (5_000_000_000, "5 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (2_500_000_000_000_000, "2,500 TB"),
    ],
)
def test_size_text(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (86400, "1 day ago"),
     (3 * 86400, "3 days ago")],
)  # fmt: skip
def test_age_text(seconds: float, text: str) -> None:
    assert age_text(1000.0, 1000.0 + seconds) == text
    assert age_text(None) == ""
