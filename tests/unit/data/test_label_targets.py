"""Targets of several labels: from every form in which they come to stored marks and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc import spec as specs
from raydc.data import prediction_source, shards
from raydc.data.prepared import Prepared
from raydc.errors import DataError, SpecError

SPLIT = {"validation_fraction": 0.2, "test_fraction": 0.2}
SETS = [["news"], ["sport", "news"], [], ["art"]]
ROWS = [{"x": float(row), "tags": SETS[row * 7 % 4]} for row in range(80)]


def csv_of(rows: list[dict[str, Any]], delimiter: str = "|") -> str:
    cells = (f"{row['x']},{delimiter.join(row['tags']) or '-'}" for row in rows)
    return "\n".join(["x,tags", *cells]) + "\n"


def write(folder: Path, form: str, rows: list[dict[str, Any]] = ROWS) -> dict[str, Any]:
    """A source of the rows in one of its forms, as a section `data`."""
    path = folder / f"rows.{form.partition('_')[0]}"
    section: dict[str, Any] = {"task": "multilabel", "target": "tags", "split": SPLIT}
    if form == "csv":
        # A row without labels has an empty cell, which means nothing is missing only if said so.
        path.write_text(csv_of(rows).replace("-", ""))
        section["clean"] = {"missing_values": []}
    elif form == "csv_columns":
        names = ("art", "news", "sport")
        marks = (",".join(str(int(name in row["tags"])) for name in names) for row in rows)
        lines = [f"{row['x']},{mark}" for row, mark in zip(rows, marks, strict=True)]
        path.write_text("\n".join(["x,art,news,sport", *lines]) + "\n")
        section["label_columns"] = list(names)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return {"source": str(path), **section}


def marks_of(prepared: Prepared) -> dict[float, list[int]]:
    """Stored marks by the number of the row."""
    found: dict[float, list[int]] = {}
    numeric = prepared.features.columns["x"]
    for split in shards.SPLITS:
        rows = shards.open_rows(prepared.folder, split)
        x, y = rows.gather(np.arange(len(rows)))
        assert (y.dtype, y.shape) == (np.uint8, (len(rows), 3))
        assert np.array_equal(rows.targets, y)
        for value, marks in zip(x[:, 0], y, strict=True):
            found[round(float(value * numeric.scale + numeric.shift))] = marks.tolist()
    return found


@pytest.mark.parametrize("form", ["csv", "csv_columns", "jsonl", "parquet"])
def test_every_form_of_labels_gives_the_same_marks(tmp_path: Path, form: str) -> None:
    prepared, lines = prepare_here(tmp_path, write(tmp_path, form), rows_per_block=13)
    signature = prepared.features.signature
    assert (signature.task, signature.classes) == ("multilabel", ("art", "news", "sport"))
    assert signature.num_outputs == 3
    expected = {
        row["x"]: [int(name in row["tags"]) for name in ("art", "news", "sport")] for row in ROWS
    }
    assert marks_of(prepared) == expected
    assert any("3 labels" in line for line in lines)
    assert list(prepared.features.columns) == ["x"]
    # Clients may send rows of the data set as they are.
    rows = [{"x": 1, "tags": ["art"], **({"art": 1} if form == "csv_columns" else {})}]
    assert prepared.features.from_json_rows(rows) == {"x": [1]}


def test_blocks_do_not_change_what_is_stored(tmp_path: Path) -> None:
    digests = {
        prepare_here(tmp_path / str(size), write(tmp_path, "jsonl"), rows_per_block=size)[
            0
        ].folder.read_json("MANIFEST.json")["files"]["train-00000.arrow"]["sha256"]
        for size in (3, 80)
    }
    assert len(digests) == 1


def test_labels_keep_their_given_order_and_those_without_rows(tmp_path: Path) -> None:
    section = {**write(tmp_path, "jsonl"), "classes": ["sport", "news", "art", "music"]}
    prepared, _ = prepare_here(tmp_path, section)
    assert prepared.features.signature.classes == ("sport", "news", "art", "music")
    rows = shards.open_rows(prepared.folder, "train")
    assert rows.targets[:, 3].sum() == 0
    assert rows.targets[:, 1].sum() > 0


def test_a_stratified_split_has_each_set_of_labels_in_every_split(tmp_path: Path) -> None:
    section = write(tmp_path, "jsonl")
    section["split"] = {**SPLIT, "by": "stratified"}
    prepared, _ = prepare_here(tmp_path, section)
    for split in ("validation", "test"):
        targets = shards.open_rows(prepared.folder, split).targets
        assert len(np.unique(targets, axis=0)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"line": {"x": 1.0, "tags": None}},
            "rows.jsonl: line 6: tags: the target is missing",
        ),
        (
            {"line": {"x": 1.0, "tags": ["art", ["news"]]}},
            """line 6: tags: '["art", ["news"]]' holds a label that is neither text nor a number""",
        ),
        (
            {"classes": ["art", "news"]},
            "label 'sport' is not one of data.classes",
        ),
        ({"only": "art"}, "the only label of all training rows is 'art'"),
        ({"empty": True}, "no training row has a label"),
    ],
)
def test_a_target_that_holds_no_labels_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows: list[Any] = [dict(row) for row in ROWS]
    if "line" in change:
        rows[5] = change["line"]
    if "only" in change or "empty" in change:
        rows = [{**row, "tags": [change["only"]] if "only" in change else []} for row in rows]
    section = write(tmp_path, "jsonl", rows)
    if "classes" in change:
        section["classes"] = change["classes"]
    with pytest.raises(DataError) as caught:
        prepare_here(tmp_path, section)
    assert message in str(caught.value)


def test_a_mark_that_is_neither_0_nor_1_is_refused_or_left_out(tmp_path: Path) -> None:
    section = write(tmp_path, "csv_columns")
    path = Path(section["source"])
    lines = path.read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0] + ",2"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"rows.csv: row 4: sport: '2' is neither 0 nor 1"):
        prepare_here(tmp_path, section)
    section["clean"] = {"on_error": "drop"}
    prepared, reported = prepare_here(tmp_path, section)
    assert sum(prepared.num_rows.values()) == len(ROWS) - 1
    assert any("sport: is neither 0 nor 1: 1 row" in line for line in reported)


def test_columns_of_labels_that_are_not_there_are_named(tmp_path: Path) -> None:
    section = {**write(tmp_path, "csv_columns"), "label_columns": ["art", "sports"]}
    with pytest.raises(DataError, match=r"data.label_columns: there is no column 'sports'"):
        prepare_here(tmp_path, section)
    section = {**write(tmp_path, "csv_columns"), "target": "x"}
    with pytest.raises(DataError, match=r"the sources have a column 'x' beside data.label_columns"):
        prepare_here(tmp_path, section)


def test_a_note_asks_for_the_delimiter_if_no_row_has_two_labels(tmp_path: Path) -> None:
    section = write(tmp_path, "csv")
    rows = [{**row, "tags": ["art;news"] if row["x"] < 40 else ["sport"]} for row in ROWS]
    Path(section["source"]).write_text(csv_of(rows))
    _, lines = prepare_here(tmp_path, section)
    assert any("'art;news' looks like several" in line for line in lines)
    section["label_delimiter"] = ";"
    prepared, lines = prepare_here(tmp_path, section)
    assert prepared.features.signature.classes == ("art", "news", "sport")
    assert not any("looks like several" in line for line in lines)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "classification", "label_columns": ["a", "b"]}, "label_columns is for task"),
        ({"task": "regression", "label_delimiter": ";"}, "label_delimiter is for task"),
        ({"label_columns": ["a", "a"]}, "label_columns names one column twice"),
        ({"label_columns": ["a", "b"], "classes": ["a", "b"]}, "leave classes out"),
        ({"label_columns": ["a", "b"], "target": "a"}, "'a' is one of them"),
    ],
)
def test_a_spec_whose_labels_do_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    data = {"source": "rows.csv", "task": "multilabel", **fields}
    with pytest.raises(SpecError) as caught:
        specs.from_dict({"name": "a", "storage": "b", "data": data, "model": {"name": "linear"}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"metric": "ece"}, "'ece' is not a metric of multilabel"),
        ({"loss": "cross_entropy"}, "'cross_entropy' is not a loss of multilabel"),
        ({"sampling": "balanced"}, "rows are sampled by class, and these have labels"),
        ({"threshold": {"name": "f1", "positive": "a"}}, "each label is for itself"),
    ],
)
def test_options_of_single_classes_are_refused_for_labels(
    train: dict[str, Any], message: str
) -> None:
    data = {"source": "rows.csv", "task": "multilabel"}
    spec = {"name": "a", "storage": "b", "data": data, "model": {"name": "linear"}, "train": train}
    with pytest.raises(SpecError) as caught:
        specs.from_dict(spec)
    assert message in str(caught.value)


def test_rows_to_predict_need_no_labels(tmp_path: Path) -> None:
    section = write(tmp_path, "csv_columns")
    spec = specs.from_dict(
        {"name": "a", "storage": "b", "data": section, "model": {"name": "linear"}}
    )
    data = prediction_source.section(spec.data, "other.csv")
    assert (data.task, data.label_columns) == ("regression", None)
    assert data.source == str(Path.cwd() / "other.csv")
    assert prediction_source.section(spec.data, "s3://a/b.csv").source == "s3://a/b.csv"
    # In the output they are what they were.
    assert data.features.columns["art"] == "categorical"


def test_an_empty_mark_is_a_missing_target_and_not_a_0(tmp_path: Path) -> None:
    section = write(tmp_path, "csv_columns")
    path = Path(section["source"])
    lines = path.read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0] + ","
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"rows.csv: row 4: tags: the target is missing"):
        prepare_here(tmp_path, section)
    section["clean"] = {"missing_target": "drop"}
    prepared, _ = prepare_here(tmp_path, section)
    assert sum(prepared.num_rows.values()) == len(ROWS) - 1
