"""An endpoint of texts: JSON and the Open Inference Protocol answer as offline, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
from record_endpoint import RecordEndpoint


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> RecordEndpoint:
    return RecordEndpoint(tmp_path_factory.mktemp("texts"), small_models.text_features())


def test_answers_are_those_of_the_model_for_one_row_and_for_many(endpoint: RecordEndpoint) -> None:
    rows = small_models.text_rows(20)
    expected = endpoint.offline(rows)
    status, answer = endpoint.ask("/predict", {"rows": rows})
    assert status == 200
    assert answer["predictions"] == expected
    for row, one in zip(rows, expected, strict=True):
        assert endpoint.ask("/predict", {"rows": [row]})[1]["predictions"] == [one]


def test_bytes_of_the_open_inference_protocol_are_texts(endpoint: RecordEndpoint) -> None:
    rows = small_models.text_rows(5)
    inputs = [
        {"name": "hour", "shape": [5], "datatype": "FP64", "data": [row["hour"] for row in rows]},
        {"name": "body", "shape": [5], "datatype": "BYTES", "data": [row["body"] for row in rows]},
    ]
    status, answer = endpoint.ask("/v2/models/small/infer", {"inputs": inputs})
    assert status == 200, answer
    labels = next(one["data"] for one in answer["outputs"] if one["name"] == "label")
    assert labels == [one["label"] for one in endpoint.offline(rows)]


@pytest.mark.parametrize("value", [5, 2.5, True, ["a"], {"a": 1}])
def test_what_is_no_text_is_422_with_its_place(endpoint: RecordEndpoint, value: Any) -> None:
    rows = [{"hour": 1, "body": "fine"}, {"hour": 1, "body": value}]
    status, answer = endpoint.ask("/predict", {"rows": rows})
    assert status == 422
    assert "rows[1].body" in answer["error"]
    assert "is not text" in answer["error"]


def test_a_row_without_its_text_is_422(endpoint: RecordEndpoint) -> None:
    status, answer = endpoint.ask("/predict", {"rows": [{"hour": 1}]})
    assert status == 422
    assert "rows[0] has no value for 'body'" in answer["error"]


def test_metadata_says_that_a_column_is_a_text(endpoint: RecordEndpoint) -> None:
    found = {one["name"]: one for one in endpoint.interface.inputs}
    assert found["body"]["datatype"] == "BYTES"
    assert found["body"]["parameters"] == {"kind": "text", "required": True, "max_tokens": 12}
