"""Rows as tensors: the same numbers as on the disk, whatever is sliced and padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydc.features import Ragged, Record
from raydc.features.record import expanded
from raydc.features.table_layout import CODES, NUMBERS, TableLayout
from raydc.models.row_tensors import RecordTensors, network_inputs, to_tensors

CHOOSE = np.random.default_rng(3)


def _table(widths: tuple[int, ...], num_rows: int = 50) -> Record:
    layout = TableLayout(widths)
    parts = [
        CHOOSE.integers(0, width + 1, num_rows).astype(layout.code_type)
        if width
        else CHOOSE.standard_normal((num_rows, 1)).astype(np.float32)
        for width in widths
    ]
    return Record(layout.store(parts), layout)


@pytest.mark.parametrize("widths", [(0, 3, 0, 2), (4,), (1, 1, 0), (300, 0), (70_000, 2)])
def test_stored_columns_become_the_same_numbers_as_in_numpy(widths: tuple[int, ...]) -> None:
    rows = _table(widths)
    found = network_inputs(to_tensors(rows))
    assert isinstance(found, torch.Tensor)
    expected = expanded(rows)
    assert isinstance(expected, np.ndarray)
    assert found.numpy().tobytes() == expected.tobytes()


def test_a_slice_of_tensors_is_the_slice_of_the_rows() -> None:
    rows = _table((0, 3, 2))
    tensors = to_tensors(rows)
    assert isinstance(tensors, RecordTensors)
    found = network_inputs(tensors[7:19])
    expected = expanded(rows[7:19])
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, np.ndarray)
    assert found.numpy().tobytes() == expected.tobytes()


def _lists(num_rows: int = 20) -> Ragged:
    lists = [
        CHOOSE.standard_normal((length, 2)).astype(np.float32)
        for length in CHOOSE.integers(0, 9, num_rows)
    ]
    return Ragged.of_lists(lists, np.empty((0, 2), np.float32))


def test_lists_are_padded_to_the_longest_of_the_slice() -> None:
    lists = _lists()
    tensors = to_tensors(Record({"series": lists}))
    assert isinstance(tensors, RecordTensors)
    for first, stop in ((0, 20), (3, 5), (7, 8)):
        found = network_inputs(tensors[first:stop])
        assert isinstance(found, dict)
        length = found["series"].shape[1]
        assert found["series"].numpy().tobytes() == lists[first:stop].padded(length).tobytes()
        assert found["series.length"].tolist() == lists.lengths[first:stop].tolist()


def test_codes_of_unsigned_types_are_numbers_that_torch_can_use() -> None:
    rows = Record({name: np.array([65_000], name) for name in ("uint16", "uint32", "uint64")})
    found = network_inputs(to_tensors(rows))
    assert isinstance(found, dict)
    assert [int(found[name][0]) for name in found] == [65_000] * 3


def test_a_table_beside_other_fields_keeps_its_name() -> None:
    table = _table((0, 3))
    rows = Record({**table.fields, "series": _lists(50)}, table.layout)
    found = network_inputs(to_tensors(rows))
    assert isinstance(found, dict)
    assert list(found) == ["columns", "series", "series.length"]
    assert {NUMBERS, CODES}.isdisjoint(found)
