"""An endpoint of lists of numbers: JSON and the Open Inference Protocol answer as offline."""

from __future__ import annotations

import json
from typing import Any

import pytest
import small_models
from in_process import request
from record_endpoint import RecordEndpoint

from raydc.serve.protocol.examples import example_csv, example_infer_request, example_row


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> RecordEndpoint:
    return RecordEndpoint(tmp_path_factory.mktemp("series"), small_models.series_features())


def test_answers_are_those_of_the_model_for_one_row_and_for_many(endpoint: RecordEndpoint) -> None:
    rows = small_models.series_rows(20)
    expected = endpoint.offline(rows)
    status, answer = endpoint.ask("/predict", {"rows": rows})
    assert status == 200, answer
    assert answer["predictions"] == expected
    for row, one in zip(rows, expected, strict=True):
        assert endpoint.ask("/predict", {"rows": [row]})[1]["predictions"] == [one]


def test_tensors_and_json_texts_of_the_open_inference_protocol_are_lists(
    endpoint: RecordEndpoint,
) -> None:
    rows = [row for row in small_models.series_rows(20) if len(row["beats"]) == 3]
    expected = [one["label"] for one in endpoint.offline(rows)]
    num_rows = len(rows)
    texts = {"shape": [num_rows], "datatype": "BYTES"}
    inputs = [
        {
            "name": "hour",
            "shape": [num_rows],
            "datatype": "FP64",
            "data": [r["hour"] for r in rows],
        },
        {
            "name": "beats",
            "shape": [num_rows, 3],
            "datatype": "FP64",
            "data": [r["beats"] for r in rows],
        },
        {"name": "path", **texts, "data": [json.dumps(r["path"]) for r in rows]},
        {
            "name": "spectrum",
            "shape": [num_rows, 3],
            "datatype": "FP64",
            "data": [number for r in rows for number in r["spectrum"]],
        },
    ]
    status, answer = endpoint.ask("/v2/models/small/infer", {"inputs": inputs})
    assert status == 200, answer
    labels = next(one["data"] for one in answer["outputs"] if one["name"] == "label")
    assert labels == expected


def test_examples_are_answered(endpoint: RecordEndpoint) -> None:
    row = example_row(endpoint.interface)
    assert row["path"] == [[1.0, -2.0]] * 3
    expected = endpoint.offline([row])
    assert endpoint.ask("/predict", {"rows": [row]})[1]["predictions"] == expected
    csv = example_csv(endpoint.interface)
    status, answer = endpoint.respond(
        request("POST", "/predict", csv.encode(), {"content-type": "text/csv"})
    )
    assert (status, answer.get("predictions")) == (200, expected)
    example = example_infer_request(endpoint.interface)
    status, answer = endpoint.ask("/v2/models/small/infer", example)
    assert status == 200, answer


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beats", 5, "5 cannot be read as a list of numbers"),
        ("beats", ["a"], "its values are not numbers"),
        ("beats", [[1]], "the shape [1, 1] is not [any length]"),
        ("path", [[1, 2, 3]], "the shape [1, 3] is not [any length, 2]"),
        ("path", [1, 2], "the shape [2] is not [any length, 2]"),
        ("spectrum", [1, 2], "the shape [2] is not [3]"),
        ("spectrum", {"a": 1}, "cannot be read as a list of numbers"),
        ("beats", [1, 1e300], "item 2, 1e+300, is too large"),
    ],
)
def test_what_is_no_list_of_its_shape_is_422_with_its_place(
    endpoint: RecordEndpoint, name: str, value: Any, message: str
) -> None:
    good, bad = small_models.series_rows(2)
    status, answer = endpoint.ask("/predict", {"rows": [good, {**bad, name: value}]})
    assert status == 422
    assert f"rows[1].{name}" in answer["error"]
    assert message in answer["error"]


def test_a_row_without_its_list_is_422_where_training_rows_had_one(
    endpoint: RecordEndpoint,
) -> None:
    row = small_models.series_rows(1)[0]
    status, answer = endpoint.ask("/predict", {"rows": [{**row, "beats": None}]})
    assert status == 422
    assert "rows[0] has no value for 'beats'" in answer["error"]
    assert endpoint.ask("/predict", {"rows": [{**row, "path": None}]})[0] == 200


def test_metadata_says_what_a_list_holds(endpoint: RecordEndpoint) -> None:
    found = {one["name"]: one for one in endpoint.interface.inputs}
    shapes = {name: one["shape"] for name, one in found.items()}
    assert shapes == {"hour": [-1], "beats": [-1, -1], "path": [-1, -1, 2], "spectrum": [-1, 3]}
    assert found["beats"]["parameters"]["max_items"] == 12
