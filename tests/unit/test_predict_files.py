"""Files of raw rows that lack values, without Ray: the table of a block in, predictions out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_models
from window_rows import window_features, window_requests

from raydc import bundle
from raydc.data import prediction_source, sources
from raydc.data.table_file import TableWriter
from raydc.errors import DataError
from raydc.evaluate import file_predictions
from raydc.features import DateParts
from raydc.spec.feature_options import FeatureOptions
from raydc.spec.sections import Data
from raydc.storage import Storage


def predict(folder: Path, text: str, always_given: tuple[str, ...]) -> Any:
    """Predicts the rows of a CSV file with a small model whose columns are age, hours and job."""
    bundle_folder = Storage(str(folder / "bundle"))
    features = replace(
        small_models.table_features(), missing_values=("", "?"), always_given=always_given
    )
    small_models.write_bundle(bundle_folder, features)
    source = folder / "rows.csv"
    source.write_text(text)
    output = folder / "predicted.csv"
    try:
        num_rows = predict_to(bundle_folder, Data(source="", target="answer"), source, output)
    except DataError as error:
        return str(error)
    assert "prediction" in output.read_text().splitlines()[0]
    return num_rows


def predict_to(bundle_folder: Storage, trained: Data, source: Path, output: Path) -> int:
    """Predicts the rows of a file as `raydc predict` does.

    Args:
        bundle_folder: Folder of the model.
        trained: Section `data` of the spec that it was trained with.
        source: File with the rows.
        output: File that gets them with the predictions.
    """
    loaded = bundle.load(bundle_folder)
    data = prediction_source.section(trained, str(source))
    layout = sources.locate(data)
    predictor = file_predictions._Predictor(loaded, layout)
    calls = prediction_source.reader(loaded.features, layout, data).pieces(layout.files)
    with TableWriter(str(output)) as writer:
        return file_predictions._write(writer, file_predictions._predict_here(predictor, calls))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of predictions; cells of CSV are texts."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with path.open(newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows to Parquet, or to JSON Lines."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("text", "always_given", "expected"),
    [
        ("age,hours,job\n1,2,cook\n,,\n", (), 2),
        ("age,hours,job\n1,2,cook\n3,,cook\n", ("age", "job"), 2),
        ("age,hours,job\n1,2,cook\n,3,?\n", ("age", "job"), "no value for 'age', 'job'\n"),
        ("age,hours,job\n1,2,cook\n3,,cook\n", ("hours",), "no value for 'hours'\n"),
        ("age,job\n1,cook\n", (), "column 'hours' is missing"),
        ("age,job\n1,cook\n", ("age", "hours"), "column 'hours' is missing"),
    ],
)
def test_file_lacks_only_values_that_training_rows_lacked(
    tmp_path: Path, text: str, always_given: tuple[str, ...], expected: Any
) -> None:
    found = predict(tmp_path, text, always_given)
    if isinstance(expected, int):
        assert found == expected
    else:
        assert expected in found
    if "no value" in str(expected):
        # The place in the file, not in a batch.
        assert "rows.csv" in found
        assert "rows[" not in found


def test_dates_are_written_as_they_were_read(tmp_path: Path) -> None:
    when = DateParts(("elapsed",), 1.7e9, 1e7)
    features = replace(
        small_models.table_features(),
        columns={"when": when, "hours": small_models.table_features().columns["hours"]},
        ignored=("age", "job"),
    )
    features = replace(features, signature=replace(features.signature, shape=(2,)))
    bundle_folder = Storage(str(tmp_path / "bundle"))
    small_models.write_bundle(bundle_folder, features)
    source = tmp_path / "rows.csv"
    source.write_text("when,hours\n2024-02-29,3\n1709208000,3\n,3\n")
    declared = FeatureOptions(columns={"when": "date"}, date_parts={"when": ["elapsed"]})
    output = tmp_path / "predicted.jsonl"
    predict_to(bundle_folder, Data(source="", features=declared), source, output)
    written = [row["when"] for row in read_rows(output)]
    assert written == ["2024-02-29", "1709208000", None]


Bundles = Callable[[str], Storage]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The folder of a model of `window`, `labels` or `classes`; each is written once."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        "window": lambda: window_features(horizon=2),
        "labels": small_models.label_features,
        "classes": small_models.table_features,
    }

    def find(name: str) -> Storage:
        bundle_folder = Storage(str(folder / name))
        if not bundle_folder.names():
            small_models.write_bundle(bundle_folder, made[name]())
        return bundle_folder

    return find


OUTPUTS = pytest.mark.parametrize("output", ["csv", "jsonl", "parquet"])
SOURCES = pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
# What a client of the endpoint may send, each form of steps.
FORMS = {
    "objects": lambda load, heat, when: {"load": load, "heat": heat, "time": when},
    "lists": lambda load, heat, _: [load, heat],
}


@OUTPUTS
@SOURCES
@pytest.mark.parametrize("form", FORMS)
def test_rows_of_past_steps(
    bundles: Bundles, tmp_path: Path, form: str, suffix: str, output: str
) -> None:
    bundle_folder = bundles("window")
    rows = [{**row, "name": f"row {index}"} for index, row in enumerate(window_requests(4))]
    for row in rows:
        steps = [list(one.values())[:2] if isinstance(one, dict) else one for one in row["window"]]
        row["window"] = [FORMS[form](*step, number) for number, step in enumerate(steps)]
    source, target = tmp_path / f"rows.{suffix}", tmp_path / f"predicted.{output}"
    write_rows(source, rows)
    data = Data(source="", target="load", task="regression")
    assert predict_to(bundle_folder, data, source, target) == 4
    written = read_rows(target)
    expected = bundle.load(bundle_folder).predict_rows(
        [{"window": row["window"], "size": row["size"]} for row in rows]
    )
    found = [[float(one["prediction_1"]), float(one["prediction_2"])] for one in written]
    assert found == [one["value"] for one in expected]
    assert [one["name"] for one in written] == [row["name"] for row in rows]
    assert [json.loads(one["window"]) for one in written] == [row["window"] for row in rows]


def test_missing_steps_of_a_file_are_filled_in_as_at_the_endpoint(tmp_path: Path) -> None:
    bundle_folder = Storage(str(tmp_path / "bundle"))
    features = window_features()
    window = replace(features.columns["window"], takes_previous=True)
    columns = {**features.columns, "window": window}
    small_models.write_bundle(bundle_folder, replace(features, columns=columns))
    (row,) = window_requests(2)[1:]
    row["window"][5][1] = None
    source, target = tmp_path / "rows.jsonl", tmp_path / "predicted.jsonl"
    write_rows(source, [row])
    predict_to(bundle_folder, Data(source="", target="load", task="regression"), source, target)
    (expected,) = bundle.load(bundle_folder).predict_rows([row])
    assert read_rows(target)[0]["prediction"] == expected["value"]


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, "{" * 1000, "[1", "7"])
def test_a_text_that_is_no_list_of_steps_is_named_with_its_place(
    bundles: Bundles, tmp_path: Path, text: str
) -> None:
    bundle_folder = bundles("window")
    source = tmp_path / "rows.csv"
    source.write_text(f'window,size\n"{text}",1\n')
    data = Data(source="", target="load", task="regression")
    with pytest.raises(DataError, match=r"rows\.csv: row 1: window: .* is not a list"):
        predict_to(bundle_folder, data, source, tmp_path / "predicted.csv")


# Columns that are no inputs, with what they hold in the source.
UNUSED: list[dict[str, Any]] = [
    {"answer": ["no", "größe"], "owner": {"name": "x", "ids": [1, 2]}, "places": [[1, 2], [3]]},
    {"answer": [], "owner": {"name": None, "ids": []}, "places": [[], [4]]},
    {"answer": None, "owner": None, "places": None},
]


@OUTPUTS
@SOURCES
def test_columns_that_are_no_inputs_hold_anything(
    bundles: Bundles, tmp_path: Path, suffix: str, output: str
) -> None:
    bundle_folder = bundles("labels")
    inputs = small_models.table_rows(3)
    rows = [{**row, **others} for row, others in zip(inputs, UNUSED, strict=True)]
    source, target = tmp_path / f"rows.{suffix}", tmp_path / f"predicted.{output}"
    write_rows(source, rows)
    data = Data(source="", target="answer", task="multilabel")
    assert predict_to(bundle_folder, data, source, target) == 3
    written = read_rows(target)
    expected = bundle.load(bundle_folder).predict_rows(inputs)
    for one, row, answer in zip(written, rows, expected, strict=True):
        shown = {name: json.loads(one[name]) if one[name] else None for name in UNUSED[0]}
        assert shown == {name: row[name] for name in UNUSED[0]}
        assert one["prediction"] == "|".join(answer["labels"])
    assert "größe" in written[0]["answer"]


def test_other_types_of_parquet_are_written_to_every_format(
    bundles: Bundles, tmp_path: Path
) -> None:
    bundle_folder = bundles("classes")
    unused = {
        "days": pa.array([[date(2024, 2, 29)]]),
        "prices": pa.array([{"net": Decimal("1.50")}]),
        "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "price": pa.array([Decimal("1.50")]),
        "day": pa.array([date(2024, 2, 29)]),
        "nothing": pa.nulls(1),
        "span": pa.array([timedelta(days=1)]),
        "word": pa.array(["a"]).dictionary_encode(),
        "large": pa.array(["a"], pa.large_string()),
    }
    row = {name: pa.array([value]) for name, value in small_models.table_rows(1)[0].items()}
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({**row, **unused}), source)
    for suffix in ("csv", "jsonl", "parquet"):
        target = tmp_path / f"predicted.{suffix}"
        predict_to(bundle_folder, Data(source="", target="answer"), source, target)
        (written,) = read_rows(target)
        assert set(unused) <= set(written)
        assert json.loads(written["days"]) == ["2024-02-29"]
        assert json.loads(written["prices"]) == {"net": "1.50"}


@pytest.mark.parametrize("cell", [["low"], {"a": 1}, [[1], [2, 3]]])
def test_an_input_that_holds_something_else_is_refused(
    bundles: Bundles, tmp_path: Path, cell: Any
) -> None:
    bundle_folder = bundles("classes")
    source = tmp_path / "rows.jsonl"
    write_rows(source, [{**small_models.table_rows(1)[0], "job": cell}])
    with pytest.raises(DataError, match=r"rows\.jsonl: line 1: job: "):
        predict_to(bundle_folder, Data(source="", target="answer"), source, tmp_path / "out.csv")


def test_column_of_nothing_but_nulls_is_predicted(tmp_path: Path) -> None:
    """pandas writes a column of None with a type of its own."""
    place = Storage(str(tmp_path / "bundle"))
    features = replace(small_models.table_features(), missing_values=("NA",))
    small_models.write_bundle(place, features)
    rows = pa.table({"age": pa.nulls(3), "hours": [1.0, 2.0, 3.0], "job": ["cook"] * 3})
    pq.write_table(rows, tmp_path / "rows.parquet")
    output = tmp_path / "out.jsonl"
    trained = bundle.load(place).spec.data
    assert predict_to(place, trained, tmp_path / "rows.parquet", output) == 3
    alone = bundle.load(place).predict_rows([{"age": None, "hours": 1.0, "job": "cook"}])
    assert read_rows(output)[0]["score"] == alone[0]["score"]
