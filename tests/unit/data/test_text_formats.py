"""Cells of CSV and JSON Lines."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.data import text_formats


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        (
            b'{"a": 1, "b": 1.5, "c": 2.0, "d": true, "e": null, "f": "x"}',
            ["1", "1.5", "2", "true", None, "x"],
        ),
        (b'{"a": NaN, "b": 12345678901234567890}', [None, "12345678901234567890"]),
    ],
)
def test_json_row_gives_cells_of_text(line: bytes, cells: list[Any]) -> None:
    assert list(text_formats.json_row("file", 0, line).values()) == cells
