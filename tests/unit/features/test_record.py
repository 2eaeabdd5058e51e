"""Rows of named fields: selected, joined, padded and grouped by their lengths."""

from __future__ import annotations

import numpy as np
import pytest

from raydc.features import Field, Ragged, Record, Signature, example_rows
from raydc.features.record import (
    bucket_keys,
    bucket_length,
    buckets_up_to,
    expanded,
    join_rows,
    largest_value,
    pad_rows,
    repeat_rows,
)
from raydc.features.table_layout import CODES, COLUMNS, NUMBERS, TableLayout, smallest_type

LISTS = [[5, 6, 7], [], [8], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


def _ragged(lists: list[list[int]]) -> Ragged:
    return Ragged.of_lists([np.array(one, np.uint16) for one in lists], np.empty(0, np.uint16))


def _record(lists: list[list[int]] = LISTS) -> Record:
    numbers = np.arange(2 * len(lists), dtype=np.float32).reshape(-1, 2)
    return Record({"columns": numbers, "text": _ragged(lists)})


def _lists(values: object) -> list[list[int]]:
    assert isinstance(values, Ragged)
    return [values[row : row + 1].values_N.tolist() for row in range(len(values))]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0, 0, 1], [1], [1, 1], []])
def test_rows_are_taken_in_any_order(rows: list[int]) -> None:
    taken = _record()[np.array(rows, dtype=np.int64)]
    assert _lists(taken.fields["text"]) == [LISTS[row] for row in rows]
    assert np.array_equal(taken.fields["columns"], _record().fields["columns"][rows])  # type: ignore[index]


@pytest.mark.parametrize(
    "rows", [slice(0, 4), slice(1, 3), slice(2, 2), slice(3, 9), slice(None, None, 2)]
)
def test_slices_are_those_of_a_list(rows: slice) -> None:
    taken = _record()[rows].fields["text"]
    assert _lists(taken) == LISTS[rows]
    assert isinstance(taken, Ragged)
    assert taken.offsets[0] == 0


def test_joined_parts_are_the_whole() -> None:
    joined = join_rows([_record()[:1], _record()[1:2], _record()[2:]])
    assert isinstance(joined, Record)
    assert _lists(joined.fields["text"]) == LISTS
    assert np.array_equal(joined.fields["columns"], _record().fields["columns"])  # type: ignore[arg-type]


def test_padding_repeats_the_last_row_and_repeating_begins_anew() -> None:
    padded, repeated = pad_rows(_record()[:3], 5), repeat_rows(_record()[:2], 5)
    assert isinstance(padded, Record)
    assert isinstance(repeated, Record)
    assert _lists(padded.fields["text"]) == [LISTS[0], LISTS[1], LISTS[2], LISTS[2], LISTS[2]]
    assert _lists(repeated.fields["text"]) == [LISTS[0], LISTS[1], LISTS[0], LISTS[1], LISTS[0]]


def test_lists_are_padded_with_zeros() -> None:
    assert _ragged(LISTS[:3]).padded(4).tolist() == [[5, 6, 7, 0], [0, 0, 0, 0], [8, 0, 0, 0]]


def test_a_bucket_holds_its_lengths_and_wastes_less_than_a_third_above_four() -> None:
    buckets = [bucket_length(length) for length in range(1, 5000)]
    assert all(bucket >= length for length, bucket in enumerate(buckets, 1))
    assert buckets == sorted(buckets)
    assert all(length > bucket * 2 / 3 or bucket <= 8 for length, bucket in enumerate(buckets, 1))
    # A list that fills a bucket stays in it.
    assert all(bucket_length(bucket) == bucket for bucket in set(buckets))
    assert bucket_length(0) == bucket_length(1)


@pytest.mark.parametrize("most", [0, 1, 4, 5, 33, 512, 1000])
def test_all_buckets_are_those_of_all_lengths(most: int) -> None:
    assert buckets_up_to(most) == sorted({bucket_length(length) for length in range(most + 1)})


def test_keys_are_padded_lengths_by_row() -> None:
    keys = bucket_keys(_record())
    assert keys is not None
    assert keys.tolist() == [[4], [4], [4], [12]]
    assert bucket_keys(np.zeros((2, 3))) is None
    assert bucket_keys(Record({"columns": np.zeros((2, 3))})) is None


LAYOUT = TableLayout((0, 3, 0, 2))


def test_codes_become_one_input_per_category() -> None:
    parts = [
        np.array([[1.5], [2.5]], np.float32),
        np.array([2, 3], np.uint8),
        np.array([[-1.0], [0.0]], np.float32),
        np.array([0, 1], np.uint8),
    ]
    stored = LAYOUT.store(parts)
    assert stored[NUMBERS].dtype == np.float32
    assert stored[CODES].dtype == np.uint8
    # The code 3 of three categories means that none is 1.
    expected = [[1.5, 0, 0, 1, -1, 1, 0], [2.5, 0, 0, 0, 0, 0, 1]]
    assert np.array_equal(expanded(Record(stored, LAYOUT)), np.array(expected, np.float32))
    beside = expanded(Record({**stored, "text": _ragged(LISTS[:2])}, LAYOUT))
    assert isinstance(beside, Record)
    assert list(beside.fields) == [COLUMNS, "text"]


@pytest.mark.parametrize(
    ("num_codes", "name"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
)
def test_codes_have_the_smallest_type(num_codes: int, name: str) -> None:
    assert smallest_type(num_codes) == name


def test_the_type_holds_the_code_of_no_input() -> None:
    assert TableLayout((256,)).code_type == "uint16"
    assert TableLayout((255,)).code_type == "uint8"


FIELDS = {
    "columns": Field("array", "float32", (2,)),
    "city": Field("array", "uint8", (), num_codes=4),
    "text": Field("list", "uint16", (), num_codes=300, max_length=2),
    "photo": Field("array", "uint8", (3, 4, 4), mean=(1.0, 2.0, 3.0), scale=(1.0, 1.0, 1.0)),
}
SIGNATURE = Signature("record", (), "", (), (), "regression", (), FIELDS)


def test_a_signature_survives_json_and_keeps_the_order_of_its_fields() -> None:
    value = SIGNATURE.to_dict()
    assert Signature.from_dict(value) == SIGNATURE
    assert [one["name"] for one in value["fields"]] == list(FIELDS)
    assert value["fields"][1] == {"name": "city", "form": "array", "dtype": "uint8", "num_codes": 4}
    assert "fields" not in Signature("vector", (2,), "float32", (), (), "regression").to_dict()


def test_bytes_of_a_row_are_those_of_its_longest_lists() -> None:
    assert SIGNATURE.row_bytes == 2 * 4 + 1 + 2 * 2 + 48


def test_rows_made_up_fit_the_signature() -> None:
    for rows in (
        example_rows.zeros(SIGNATURE, 5),
        example_rows.random(SIGNATURE, np.random.default_rng(0), 5),
    ):
        assert isinstance(rows, Record)
        assert len(rows) == 5
        for name, field in FIELDS.items():
            values = rows.fields[name]
            items = values.values_N if isinstance(values, Ragged) else values
            assert str(items.dtype) == field.dtype
            assert items.shape[1:] == field.shape
            assert not field.num_codes or items.max() < field.num_codes
        text = rows.fields["text"]
        assert isinstance(text, Ragged)
        assert text.lengths.tolist() == [1, 2, 1, 2, 1]
    long = example_rows.random(SIGNATURE, np.random.default_rng(0), 3, {"text": 7})
    assert isinstance(long, Record)
    assert long.fields["text"].lengths.tolist() == [7, 7, 7]  # type: ignore[union-attr]


def test_the_largest_value_is_found_in_any_field() -> None:
    assert largest_value(_record()) == 9.0
    assert largest_value(np.array([[-3.0, 2.0]])) == 3.0
