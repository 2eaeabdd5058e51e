"""The past steps of a series as an input."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raydc.errors import DataError
from raydc.features import SeriesWindow
from raydc.features.columns import column_from_dict, column_to_dict

ONE = SeriesWindow(3, ("load",), (10.0,), (2.0,), 0)


@pytest.mark.parametrize(
    "window",
    [
        [12, 14, 16],
        [[12], [14], [16]],
        [{"load": 12}, {"load": 14, "time": "now"}, {"load": "16"}],
        ["12", 14, 16.0],
        "[12, 14, 16]",
        np.array([12.0, 14.0, 16.0]),
    ],
    ids=str,
)
def test_every_form_of_steps(window: Any) -> None:
    assert ONE.apply([window], "window", frozenset()).tolist() == [[[1.0], [2.0], [3.0]]]


def test_the_number_before_a_missing_one() -> None:
    with pytest.raises(DataError, match=r"rows\[0\].window\[1\].load: the value is missing"):
        ONE.apply([[12, None, 16]], "window", frozenset())
    filling = replace(ONE, takes_previous=True)
    filled = filling.apply([[12, None, "?"]], "window", frozenset({"?"}))
    assert filled.tolist() == [[[1.0], [1.0], [1.0]]]
    with pytest.raises(DataError) as refused:
        filling.apply([[None, 14, 16]], "window", frozenset())
    assert refused.value.hint == "There is no number before it."


def test_it_survives_json() -> None:
    for window in (ONE, replace(ONE, target=None), replace(ONE, takes_previous=True)):
        read = column_from_dict(json.loads(json.dumps(column_to_dict(window))))
        assert read == window
