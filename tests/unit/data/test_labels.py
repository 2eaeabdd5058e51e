"""Labels and categories that files spell differently, and columns whose files differ in type."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc.data import shards
from raydc.errors import DataError
from raydc.features import Categorical, Features, Numeric, Signature
from raydc.spec import from_dict
from raydc.spec.label_text import find_position, positions_of, text_of

NUMBERS = [1, 0, 1, 0, 1, 1] * 20


def _csv(folder: Path, name: str, **columns: list[Any]) -> Path:
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (folder / name).write_text("\n".join([",".join(columns), *rows, ""]))
    return folder / name


def test_text_of_a_decimal_is_that_of_the_number() -> None:
    numbers = {"7.00": "7", "700": "700", "0.00": "0", "-0.0": "0", "1.50": "1.5", "1E+3": "1000"}
    numbers["-12345678901234567890123456789012.25000"] = "-12345678901234567890123456789012.25"
    for written, text in numbers.items():
        assert text_of(Decimal(written)) == text


def test_text_of_a_whole_number_has_one_spelling() -> None:
    same = [3, 3.0, "3", "3.0", "3.000", "3.", "+3.0", np.int64(3), np.float32(3)]
    assert {text_of(value) for value in same} == {"3"}
    assert text_of("-0.0") == text_of(-0.0) == "0"
    # A code, a version, and text that only contains such a number are not respelt.
    for other in ("007", "1.10", "1.0.0", "v1.0", "1.0 ", "1.0\n", ".0", "+3", "9" * 400 + ".0"):
        assert text_of(other) == other


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_one_and_one_point_nought_are_one_class_in_each_format(tmp_path: Path, suffix: str) -> None:
    texts = [f"{value}.0" if row % 2 else str(value) for row, value in enumerate(NUMBERS)]
    columns = {"a": list(range(120)), "code": texts[::-1], "y": texts}
    if suffix == "csv":
        _csv(tmp_path, "rows.csv", **columns)
    elif suffix == "jsonl":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    data = {"target": "y", "features": {"columns": {"code": "categorical"}}}
    prepared, _ = prepare_here(tmp_path, {"source": f"{tmp_path}/rows.{suffix}", **data})
    assert prepared.features.signature.classes == ("0", "1")
    code = prepared.features.columns["code"]
    assert isinstance(code, Categorical)
    assert set(code.categories) == {"0", "1"}
    # A client may send any spelling, in any type.
    rows = [{"a": 1, "code": value} for value in ("1", "1.0", 1, 1.0)]
    x = prepared.features.apply(prepared.features.from_json_rows(rows))
    assert (x == x[0]).all()
    assert x[0, 1:].sum() == 1


def test_older_features_find_their_own_spellings() -> None:
    column = Categorical(("1.0", "2.0", "2"), has_other=True, has_missing=False)
    x = column.apply(["1.0", "1", 1, 2.0, "2", "2.0", "3"], "code", frozenset())
    assert x.argmax(axis=1).tolist() == [0, 0, 0, 2, 2, 1, 3]
    names = positions_of(("True", "False"))
    assert [find_position(names, value) for value in (True, np.False_, "True", "yes")] == [
        0,
        1,
        0,
        None,
    ]


def test_target_of_any_spelling_is_its_class() -> None:
    features = Features(
        Signature("vector", (1,), "float32", (), (), "classification", ("1.0", "2")),
        "y",
        {"a": Numeric(0.0, 0.0, 1.0)},
    )
    assert features.apply_target(["1", "1.0", 1.0, 2, "2.0"]).tolist() == [0, 0, 0, 1, 1]


def test_classes_of_the_spec_may_be_numbers_in_any_spelling(tmp_path: Path) -> None:
    source = _csv(tmp_path, "rows.csv", a=list(range(120)), y=[f"{value}.0" for value in NUMBERS])
    data = {"source": str(source), "target": "y"}
    prepared, _ = prepare_here(tmp_path, {**data, "classes": [1, 0]})
    assert prepared.features.signature.classes == ("1", "0")
    y = np.concatenate(
        [
            rows.gather(np.arange(len(rows)))[1]
            for split in shards.SPLITS
            for rows in [shards.open_rows(prepared.folder, split)]
        ]
    )
    assert (y == 0).sum() == sum(NUMBERS)
    with pytest.raises(DataError, match=r"data\.classes: '0' and '0\.0' are the same label"):
        prepare_here(tmp_path, {**data, "classes": ["1", "0", "0.0"]})


def test_classes_are_read_as_the_text_of_their_labels() -> None:
    section = {"source": "x.csv", "classes": [10, 2.0, 2.5, True, "no"]}
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    assert spec.data.classes == ["10", "2", "2.5", "true", "no"]


def test_labels_that_differ_in_spelling_get_a_note(tmp_path: Path) -> None:
    labels = ["yes", "yes ", "no", "No", "caf\u00e9", "cafe\u0301"] * 20
    codes = ["1.5", "1.50", "x"] * 40
    source = _csv(tmp_path, "rows.csv", a=list(range(120)), b=codes, y=labels)
    prepared, notes = prepare_here(tmp_path, {"source": str(source), "target": "y"})
    assert len(prepared.features.signature.classes) == 6
    text = "\n".join(notes)
    assert "target 'y': 'yes' (20 rows), 'yes ' (20 rows) differ only in blanks" in text
    assert "'No' (20 rows), 'no' (20 rows) differ only in case" in text
    assert "differ only in their Unicode form, and are 2 classes" in text
    assert "column 'b': '1.5'" in text
    assert "the spelling of a number, and are 2 categories" in text


def test_files_that_differ_in_type_are_taken_as_decided(tmp_path: Path) -> None:
    labels = ["u", "v"] * 30
    for name, cells in (("a", pa.array(range(60))), ("b", pa.array(["x", "y", "7"] * 20))):
        table = pa.table({"c": cells, "d": pa.array(range(60)).cast(pa.float32()), "y": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    table = pa.table({"c": ["z"] * 60, "d": pa.array(range(60), pa.int8()), "y": labels})
    pq.write_table(table, tmp_path / "c.parquet")
    prepared, notes = prepare_here(tmp_path, {"source": f"{tmp_path}/*.parquet", "target": "y"})
    assert [column.kind for column in prepared.features.columns.values()] == [
        "categorical",
        "numeric",
    ]
    assert (
        f"note: column 'c' is taken as categorical: it holds number in {tmp_path}/a.parquet, "
        f"and text in {tmp_path}/b.parquet"
    ) in notes
    # The 7 of one file and of the other are one category.
    golden = prepared.folder.read_json("golden_rows.json")
    assert {type(row["c"]) for row in golden} == {str}


def test_unknown_label_that_is_spelt_like_another_is_named(tmp_path: Path) -> None:
    for name, cafe in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        _csv(tmp_path, f"{name}.csv", a=list(range(60)), y=[cafe, "bar"] * 30)
    parts = {name: f"{tmp_path}/{name}.csv" for name in ("train", "test")}
    with pytest.raises(
        DataError, match=r"never seen in training\n  It differs from 'caf\u00e9' in"
    ):
        prepare_here(tmp_path, {"source": parts, "target": "y"})
