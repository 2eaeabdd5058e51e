"""Cells of CSV and JSON Lines."""

from __future__ import annotations

from typing import Any

import pytest

from raydc.data import text_formats
from raydc.errors import DataError


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "file: line 1: there are two values of 'a'"),
        (b"[", r"file: line 1: not JSON: .*\n.*one JSON array; write one object a line"),
        (b'{"a": {"b": 1}}', "file: line 1: a: an object is not a number"),
        (b'{"a": ["1"]}', "file: line 1: a: not a list of numbers: '1' is not a finite number"),
        (b"[1]", r"file: line 1: \[1\] is not an object"),
    ],
)
def test_json_row_refuses_what_it_would_change(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        text_formats.json_row("file", 0, line)
