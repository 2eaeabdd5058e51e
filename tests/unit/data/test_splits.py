"""Stratified splits, and splits by group, time and column: exact at any cut into blocks."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data import shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError, SpecError
from raydc.storage import sha256

SPLITS = ("train", "validation", "test")


def _rows(num_rows: int = 200) -> list[dict[str, Any]]:
    generator = np.random.default_rng(2)
    return [
        {
            "a": int(generator.integers(0, 50)),
            "who": f"p{int(generator.integers(0, 30))}",
            "when": int(generator.integers(0, 60)),
            "day": str(datetime.date(2024, 1, 1) + datetime.timedelta(int(generator.integers(90)))),
            "part": ("train", "Train", "test", "dev")[int(generator.integers(4))],
            "y": "rare" if row % 20 == 0 else ("no", "yes")[row % 2],
        }
        for row in range(num_rows)
    ]


def _prepare(
    folder: Path, rows: list[dict[str, Any]], split: dict[str, Any], **data: Any
) -> tuple[Prepared, dict[str, list[int]]]:
    lines = [",".join(rows[0])]
    lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    section = {"source": str(folder / "rows.csv"), "target": "y", "split": split, **data}
    made = []
    for cut in (None, 23):
        (folder / f"cut-{cut}").mkdir(exist_ok=True)
        prepared, _ = prepare_here(folder / f"cut-{cut}", section, rows_per_block=cut)
        made.append(prepared)
    files = [
        {file.name: sha256(file.read_bytes()) for file in prepared.folder.local_path.iterdir()}
        for prepared in made
    ]
    assert files[0] == files[1]
    ids = {name: shards.open_rows(made[0].folder, name).ids.tolist() for name in SPLITS}
    assert sorted(row for found in ids.values() for row in found) == list(range(len(rows)))
    return made[0], ids


def test_stratified_split_takes_the_same_fraction_of_each_class(tmp_path: Path) -> None:
    rows = _rows()
    split = {"by": "stratified", "validation_fraction": 0.1, "test_fraction": 0.2}
    _, ids = _prepare(tmp_path, rows, split)
    total = Counter(row["y"] for row in rows)
    for name, fraction in (("validation", 0.1), ("test", 0.2)):
        found = Counter(rows[row_id]["y"] for row_id in ids[name])
        assert found == {y: int(count * fraction + 0.5) for y, count in total.items()}
    _, by_person = _prepare(tmp_path, rows, {**split, "column": "who"})
    assert by_person != ids


def test_rows_of_a_group_are_in_one_split(tmp_path: Path) -> None:
    rows = _rows()
    split = {"by": "group", "column": "who", "test_fraction": 0.3}
    prepared, ids = _prepare(tmp_path, rows, split)
    groups = {name: {rows[row_id]["who"] for row_id in found} for name, found in ids.items()}
    assert all(groups.values())
    assert not groups["train"] & (groups["test"] | groups["validation"])
    assert not groups["validation"] & groups["test"]
    assert "who" not in prepared.features.columns
    # A group stays where it is when other rows come or go.
    _, fewer = _prepare(tmp_path, rows[:100], split)
    for name in SPLITS:
        assert fewer[name] == [row_id for row_id in ids[name] if row_id < 100]


@pytest.mark.parametrize("column", ["when", "day"])
def test_last_rows_in_time_are_for_the_test(tmp_path: Path, column: str) -> None:
    rows = _rows()
    split = {"by": "time", "column": column, "validation_fraction": 0.2, "test_fraction": 0.25}
    prepared, ids = _prepare(tmp_path, rows, split)
    times = {name: [rows[row_id][column] for row_id in found] for name, found in ids.items()}
    assert max(times["train"]) < min(times["validation"])
    assert max(times["validation"]) < min(times["test"])
    # Rows of one time stay together, so that there are a few more.
    ordered = sorted(row[column] for row in rows)
    assert min(times["test"]) == ordered[150]
    assert min(times["validation"]) == ordered[110]
    assert column not in prepared.features.columns


def test_timestamps_of_parquet_split_and_are_inputs_in_seconds(tmp_path: Path) -> None:
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    moments = [start + datetime.timedelta(hours=7 * row % 100) for row in range(100)]
    table = pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us", "UTC")),
            "day": pa.array([moment.date() for moment in moments]),
            "span": pa.array([datetime.timedelta(seconds=row / 2) for row in range(100)]),
            "time": pa.array([moment.time() for moment in moments]),
            "y": ["no", "yes"] * 50,
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    split = {"by": "time", "column": "at"}
    data = {"source": str(tmp_path / "rows.parquet"), "target": "y", "split": split}
    data["features"] = {"columns": {"at": "numeric"}}
    prepared, _ = prepare_here(tmp_path, data)
    ids = shards.open_rows(prepared.folder, "test").ids.tolist()
    assert sorted(moments)[90] == min(moments[row_id] for row_id in ids)
    golden = prepared.folder.read_json("golden_rows.json")[0]
    first = moments[ids[0]]
    assert golden["at"] == first.timestamp()
    assert golden["day"] == first.replace(hour=0).timestamp()
    assert golden["span"] == ids[0] / 2
    assert golden["time"] == first.hour * 3600


def test_column_names_the_split(tmp_path: Path) -> None:
    rows = _rows()
    split = {"by": "column", "column": "part"}
    prepared, ids = _prepare(tmp_path, rows, split)
    named = {"train": {"train", "Train"}, "validation": {"dev"}, "test": {"test"}}
    for name, words in named.items():
        assert ids[name] == [row for row, cells in enumerate(rows) if cells["part"] in words]
    assert "part" not in prepared.features.columns
    # Where no row is named for validation, some are taken from the training rows.
    for row in rows:
        row["part"] = "test" if row["part"] == "test" else "train"
    _, ids = _prepare(tmp_path, rows, split)
    assert ids["test"] == [row for row, cells in enumerate(rows) if cells["part"] == "test"]
    assert 0 < len(ids["validation"]) < len(ids["train"])


@pytest.mark.parametrize(
    ("split", "column", "value", "reason"),
    [
        ({"by": "group", "column": "who"}, "who", None, "belongs to no group"),
        ({"by": "time", "column": "day"}, "day", "later", "'later' is not a time"),
        ({"by": "column", "column": "part"}, "part", "exam", "'exam' names no split"),
    ],
)
def test_row_that_cannot_be_split_is_named_or_left_out(
    tmp_path: Path, split: dict[str, Any], column: str, value: Any, reason: str
) -> None:
    rows = _rows()
    rows[16][column] = value
    with pytest.raises(DataError, match=rf"rows\.csv: row 17: {column}: .*{reason}"):
        _prepare(tmp_path, rows, split)
    section = {"source": str(tmp_path / "rows.csv"), "target": "y", "split": split}
    prepared, _ = prepare_here(tmp_path, {**section, "clean": {"on_error": "drop"}})
    assert sum(prepared.num_rows.values()) == len(rows) - 1


def test_split_by_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.split\.column: there is no column 'whom'.*\n.*who"):
        _prepare(tmp_path, _rows(), {"by": "group", "column": "whom"})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "group"}, "by: group needs column: the name"),
        ({"column": "a"}, "column is not used by a split by fraction"),
        ({"by": "chance"}, "split.by"),
    ],
)
def test_split_that_says_too_little_is_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prepare_here(Path("/nowhere"), {"source": "x.csv", "split": split})
