"""Lists of numbers of Parquet, JSON Lines, NumPy and CSV as fields of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import SPLITS, open_rows
from raydc.errors import DataError
from raydc.features import Features, NumberList, Ragged, Record
from raydc.storage import sha256

NUM_ROWS = 120
CUTS = (None, 17, 5)


def _lists(seed: int = 0) -> list[list[float] | None]:
    choose = np.random.default_rng(seed)
    lengths = choose.integers(0, 9, NUM_ROWS)
    return [
        None if row % 11 == 5 else choose.normal(5, 3, length).round(3).tolist()
        for row, length in enumerate(lengths)
    ]


def _table(**columns: Any) -> pa.Table:
    labels = ["no", "yes"] * (NUM_ROWS // 2)
    return pa.table({"age": [row % 7 for row in range(NUM_ROWS)], "y": labels, **columns})


def _prepare(folder: Path, table: pa.Table, **data: Any) -> Prepared:
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "rows.parquet", row_group_size=50)
    return _prepare_file(folder, folder / "rows.parquet", **data)


def _prepare_file(folder: Path, path: Path, **data: Any) -> Prepared:
    given = {"source": str(path), "target": "y", **data}
    made = [prepare_here(folder / f"cut-{cut}", given, rows_per_block=cut)[0] for cut in CUTS]
    contents = [
        {file.name: sha256(file.read_bytes()) for file in one.folder.local_path.iterdir()}
        for one in made
    ]
    assert contents[0] == contents[1] == contents[2]
    return made[0]


def _rows(prepared: Prepared, name: str = "train") -> tuple[Record, list[int]]:
    rows = open_rows(prepared.folder, name)
    x, _ = rows.gather(np.arange(len(rows)))
    assert isinstance(x, Record)
    return x, rows.ids.tolist()


def _column(prepared: Prepared, name: str = "s") -> NumberList:
    column = prepared.features.columns[name]
    assert isinstance(column, NumberList)
    return column


def _expect(prepared: Prepared, lists: list[Any], name: str = "train") -> None:
    """Compares stored lists with those of the source, scaled by the numbers of training rows."""
    _, training = _rows(prepared)
    numbers = np.concatenate([lists[row] for row in training if lists[row]])
    column = _column(prepared)
    np.testing.assert_allclose(column.shift, np.atleast_1d(numbers.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(column.scale, np.atleast_1d(numbers.std(0)), rtol=1e-12)
    x, ids = _rows(prepared, name)
    field = x.fields["s"]
    assert isinstance(field, Ragged)
    for place, row in enumerate(ids):
        part = field.values_N[field.offsets[place] : field.offsets[place + 1]]
        expected = np.array(lists[row] or [], dtype=np.float64)
        scaled = (
            (expected - np.array(column.shift)) / np.array(column.scale) if len(expected) else []
        )
        assert part.tolist() == np.float32(scaled).tolist()


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.decimal128(9, 3))],
    ids=str,
)
def test_list_of_any_length_is_a_field(tmp_path: Path, kind: pa.DataType) -> None:
    lists = _lists()
    prepared = _prepare(tmp_path, _table(s=pa.array(lists, pa.list_(pa.float64())).cast(kind)))
    field = prepared.features.signature.fields["s"]
    assert (field.form, field.dtype, field.shape, field.max_length) == ("list", "float32", (), 8)
    for name in ("train", "validation", "test"):
        _expect(prepared, lists, name)


def test_formats_give_the_same_lists(tmp_path: Path) -> None:
    lists, table = _lists(), _table()
    parquet = _prepare(tmp_path / "parquet", _table(s=pa.array(lists, pa.list_(pa.float64()))))
    rows = [{**row, "s": part} for row, part in zip(table.to_pylist(), lists, strict=True)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "jsonl").mkdir()
    lines = _prepare_file(tmp_path / "jsonl", path)
    texts = "".join(
        f'{row["age"]},{row["y"]},"{"" if part is None else json.dumps(part)}"\n'
        for row, part in zip(rows, lists, strict=True)
    )
    (tmp_path / "rows.csv").write_text("age,y,s\n" + texts)
    (tmp_path / "csv").mkdir()
    csv = _prepare_file(
        tmp_path / "csv", tmp_path / "rows.csv", features={"columns": {"s": "list"}}
    )
    stored = [
        {file.name: sha256(file.read_bytes()) for file in one.folder.local_path.glob("*.arrow")}
        for one in (parquet, lines, csv)
    ]
    assert stored[0]
    assert stored[0] == stored[1] == stored[2]


def test_lists_of_arrays_are_scaled_by_the_place_in_an_item(tmp_path: Path) -> None:
    choose = np.random.default_rng(1)
    lists = [
        [[a, 100 * b] for a, b in choose.normal(size=(length, 2)).round(3).tolist()]
        for length in choose.integers(0, 6, NUM_ROWS).tolist()
    ]
    prepared = _prepare(tmp_path, _table(s=pa.array(lists, pa.list_(pa.list_(pa.float64())))))
    assert prepared.features.signature.fields["s"].shape == (2,)
    _expect(prepared, lists)


def test_list_of_a_fixed_size_is_an_array(tmp_path: Path) -> None:
    numbers = np.random.default_rng(2).normal(3, 2, (NUM_ROWS, 4)).round(3)
    cells: list[Any] = numbers.tolist()
    cells[7] = None
    prepared = _prepare(tmp_path, _table(s=pa.array(cells, pa.list_(pa.float32(), 4))))
    field = prepared.features.signature.fields["s"]
    assert (field.form, field.shape) == ("array", (4,))
    x, ids = _rows(prepared)
    kept = [row for row in ids if row != 7]
    column, given = _column(prepared), np.float32(numbers).astype(np.float64)
    np.testing.assert_allclose(column.shift, given[kept].mean(0), rtol=1e-12)
    expected = np.float32((given[ids] - column.shift) / np.array(column.scale))
    # A missing array is the mean.
    expected[[row == 7 for row in ids]] = 0.0
    np.testing.assert_array_equal(x.fields["s"], expected)


def test_series_of_numpy_are_lists(tmp_path: Path) -> None:
    numbers = np.random.default_rng(3).normal(size=(NUM_ROWS, 5, 3))
    np.savez(tmp_path / "rows.npz", s=numbers, y=np.array(["no", "yes"] * 60))
    prepared = _prepare_file(tmp_path, tmp_path / "rows.npz")
    _expect(prepared, numbers.tolist())


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    table = _table(s=pa.array([list(range(row % 10)) for row in range(NUM_ROWS)]))
    pq.write_table(table, tmp_path / "rows.parquet")
    data = {"source": str(tmp_path / "rows.parquet"), "target": "y", "features": {"max_items": 4}}
    prepared, lines = prepare_here(tmp_path, data)
    x, ids = _rows(prepared)
    lists = x.fields["s"]
    assert isinstance(lists, Ragged)
    assert lists.lengths.tolist() == [min(4, row % 10) for row in ids]
    num_cut = sum(row % 10 > 4 for row in ids)
    assert any(f"column 's' has {num_cut} lists of more than 4 items" in line for line in lines)
    # The numbers that are cut off scale nothing.
    kept = np.concatenate([np.arange(min(4, row % 10)) for row in ids])
    assert _column(prepared).shift == (pytest.approx(kept.mean(), rel=1e-12),)


def test_served_lists_are_the_stored_ones(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, _table(s=pa.array(_lists(), pa.list_(pa.float64()))))
    features = Features.from_dict(json.loads(json.dumps(prepared.features.to_dict())))
    assert features == prepared.features
    golden = read_golden_rows(prepared.folder)
    x, _ = _rows(prepared, "test")
    for rows in (golden, [{**row, "s": json.dumps(row.get("s"))} for row in golden if "s" in row]):
        served = features.apply(features.from_json_rows(rows))
        assert isinstance(served, Record)
        stored = x[
            np.array([place for place, row in enumerate(golden) if "s" in row or rows is golden])
        ]
        part, whole = served.fields["s"], stored.fields["s"]
        assert isinstance(part, Ragged)
        assert isinstance(whole, Ragged)
        assert part.values_N.tolist() == whole.values_N.tolist()
        assert part.offsets.tolist() == whole.offsets.tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2", r"rows\[1\]\.s: '\[1, 2' cannot be read as a list of numbers"),
        (7, r"rows\[1\]\.s: 7 cannot be read as a list of numbers: it is not a list"),
        (
            [1, "x"],
            r"rows\[1\]\.s: .* cannot be read as a list of numbers: its values are not numbers",
        ),
        (
            [1, True],
            r"rows\[1\]\.s: \[1, True\] cannot be .* list of numbers: it holds true or false",
        ),
        ([1, 10**400], r"rows\[1\]\.s: .*: it holds a whole number of more than 64 bits"),
        ([[1, 2]], r"rows\[1\]\.s: the shape \[1, 2\] is not \[any length\]"),
        ([1, float("inf")], r"rows\[1\]\.s: item 2, inf, is not a finite number"),
        ([1, 1e300], r"rows\[1\]\.s: item 2, 1e\+300, is too large"),
    ],
)
def test_list_of_a_client_that_does_not_fit_is_named(value: Any, message: str) -> None:
    column = NumberList((2.0,), (2.0,), (0.5,), 8)
    with pytest.raises(DataError, match=message):
        column.apply([[1], value], "s", ())


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[1.0], [None, 2.0]] * 60, r"rows\.parquet: row 2: s: \[None, 2\.0\] has an item that is"),
        ([[1.0], [float("inf")]] * 60, r"rows\.parquet: row 2: s: \[inf\] has an item that is"),
        ([["a"], ["b"]] * 60, r"column 's' holds list<.*string>, which cannot be an input"),
        ([[[1], [2, 3]], []] * 60, r"column 's' holds list<.*list<.*int64>>, which cannot be"),
        ([[]] * 120, r"column 's' has no value in any training row"),
    ],
)
def test_list_of_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, cells: Any, message: str
) -> None:
    pq.write_table(_table(s=pa.array(cells)), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {"source": str(tmp_path / "rows.parquet"), "target": "y"})


def test_rows_with_wrong_items_are_left_out_and_counted(tmp_path: Path) -> None:
    cells = [[1.0, float(row)] if row != 9 else [None, 1.0] for row in range(NUM_ROWS)]
    prepared = _prepare(tmp_path, _table(s=pa.array(cells)), clean={"on_error": "drop"})
    assert sum(prepared.num_rows.values()) == NUM_ROWS - 1


def test_lists_of_two_shapes_are_refused_by_their_places(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(_table(s=pa.array([[1.0]] * NUM_ROWS)), tmp_path / "in" / "0.parquet")
    sized = pa.array([[1.0, 2.0]] * NUM_ROWS, pa.list_(pa.float64(), 2))
    pq.write_table(_table(s=sized), tmp_path / "in" / "1.parquet")
    message = r"holds lists of numbers at .*0\.parquet: row 1, but arrays of 2 numbers at .*1\.p"
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {"source": str(tmp_path / "in"), "target": "y"})


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("item", [[1.5, 2.0], 7.25])
def test_file_of_empty_lists_only_goes_with_the_others(
    tmp_path: Path, form: str, item: Any
) -> None:
    lists: list[Any] = [[] if row % 3 else None for row in range(NUM_ROWS // 2)]
    lists += [[item] * (row % 4) for row in range(NUM_ROWS // 2)]
    table = _table(s=pa.array(lists))
    # The rows without an item are of the first file, and then of the last.
    for first in (0, NUM_ROWS // 2):
        folder = tmp_path / f"in-{first}"
        folder.mkdir()
        for number, start in enumerate((first, NUM_ROWS // 2 - first)):
            part = table.slice(start, NUM_ROWS // 2)
            path = folder / f"{number}.{form}"
            if form == "parquet":
                pq.write_table(part, path)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in part.to_pylist()))
        prepared = _prepare_file(tmp_path / f"made-{first}", folder)
        fields = [_rows(prepared, name)[0].fields["s"] for name in SPLITS]
        lengths = [np.diff(field.offsets) for field in fields if isinstance(field, Ragged)]
        assert sum(map(len, lengths)) == NUM_ROWS
        assert sum(length.sum() for length in lengths) == sum(len(cell or ()) for cell in lists)


def test_empty_list_among_arrays_of_one_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sized = pa.array([[1.0, float(row)] for row in range(NUM_ROWS)], pa.list_(pa.float64(), 2))
    pq.write_table(_table(s=sized), tmp_path / "in" / "0.parquet")
    empty = pa.array([None, *[[]] * (NUM_ROWS - 1)], pa.list_(pa.float64()))
    pq.write_table(_table(s=empty), tmp_path / "in" / "1.parquet")
    with pytest.raises(DataError, match=r"the shape \[0\] is not \[2\]"):
        prepare_here(tmp_path, {"source": str(tmp_path / "in"), "target": "y"})


@pytest.mark.parametrize("form", ["parquet", "sized", "nested", "jsonl", "csv"])
def test_whole_numbers_beyond_floats_are_the_nearest_float(tmp_path: Path, form: str) -> None:
    # Nanoseconds since 1970: floats at that distance are 256 apart.
    lists: list[Any] = [[1_700_000_000_000_000_001 + row, 2] for row in range(NUM_ROWS)]
    items = [[cell] for cell in lists] if form == "nested" else lists
    kind = pa.list_(pa.int64(), 2) if form == "sized" else None
    table = _table(s=pa.array(items, kind))
    data: dict[str, Any] = {}
    if form == "jsonl":
        lines = [json.dumps(row) for row in table.to_pylist()]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    elif form == "csv":
        lines = [f"{row['s']};{row['age']};{row['y']}" for row in table.to_pylist()]
        (tmp_path / "rows.csv").write_text("\n".join(["s;age;y", *lines]))
        data = {"csv": {"delimiter": ";"}, "features": {"columns": {"s": "list"}}}
    else:
        pq.write_table(table, tmp_path / "rows.parquet")
    path = next(tmp_path.glob("rows.*"))
    prepared = _prepare_file(tmp_path / "made", path, **data)
    found = [cell for row in read_golden_rows(prepared.folder) for cell in np.ravel(row["s"])]
    assert set(found) <= {2.0, *(float(cell[0]) for cell in lists)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"s": "x", "y": "no"}', r"line 2: s: it holds a number or text, but lists .* line 1"),
        ('{"s": [1, null], "y": "no"}', r"line 2: s: not a list of numbers: None is not a finite"),
        ('{"s": [[1], [2, 3]], "y": "no"}', r"line 2: s: .*its items have 1 and 2 numbers"),
        ('{"s": [1e999], "y": "no"}', r"line 2: s: .*inf is not a finite number"),
        ('{"s": [true], "y": "no"}', r"line 2: s: .*True is not a finite number"),
    ],
)
def test_list_of_json_that_cannot_be_used_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"s": [1], "y": "yes"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        prepare_here(tmp_path, {"source": str(tmp_path / "rows.jsonl"), "target": "y"})


def test_text_that_is_declared_a_list_and_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('s,y\n"[1, 2]",no\n"1 2",yes\n')
    data = {"source": str(tmp_path / "rows.csv"), "target": "y"}
    features = {"columns": {"s": "list"}}
    with pytest.raises(DataError, match=r"rows\.csv: row 2: s: '1 2': is not a list of numbers"):
        prepare_here(tmp_path, {**data, "features": features})
