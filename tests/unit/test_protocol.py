"""The Open Inference Protocol v2 and `/predict`: what is understood, and how each wrong body is refused."""

from __future__ import annotations

import base64
import copy
from typing import Any

import numpy as np
import pytest

from raydc.serve import protocol
from raydc.serve.tensors import Interface, RequestError

TABLE = Interface({"age": "numeric", "job": "categorical"}, ("no", "yes"))
PICTURE = Interface({"image": "image"}, ("cat", "dog", "fox"))

GOOD: dict[str, Any] = {
    "id": "r1",
    "inputs": [
        {"name": "age", "shape": [2], "datatype": "FP32", "data": [41, 17.5]},
        {"name": "job", "shape": [2, 1], "datatype": "BYTES", "data": [["nurse"], ["cook"]]},
    ],
}


def changed(**fields: Any) -> dict[str, Any]:
    """GOOD with fields of its first tensor replaced; None removes one."""
    body = copy.deepcopy(GOOD)
    for name, value in fields.items():
        if value is None:
            del body["inputs"][0][name]
        else:
            body["inputs"][0][name] = value
    return body


def test_infer_reads_raw_columns() -> None:
    request = protocol.parse_infer(GOOD, TABLE)
    assert (request.id, request.num_rows, request.outputs) == ("r1", 2, ("scores", "label"))
    np.testing.assert_array_equal(request.columns["age"], np.array([41, 17.5], dtype=np.float32))
    assert request.columns["job"] == ["nurse", "cook"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body must be an object, not a list"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": [3]}, r"inputs\[0\] must be an object"),
        (changed(shape=None), r"inputs\[0\] lacks 'shape'"),
        (changed(data=None), r"inputs\[0\] lacks 'data'"),
        (changed(name="agee"), r"inputs\[0\].name is 'agee'; did you mean 'age'"),
        (changed(name="x"), "the model's inputs are 'age', 'job'"),
        (changed(datatype="FP17"), r"inputs\[0\].datatype is 'FP17'; known are"),
        (changed(shape=[3]), r"inputs\[0\].data has 2 values, shape \[3\] needs 3"),
        (changed(shape=[]), r"inputs\[0\].shape must be a list of whole numbers"),
        (changed(shape=[True]), r"inputs\[0\].shape must be a list of whole numbers"),
        (changed(shape=[-1]), r"inputs\[0\].shape must be a list of whole numbers"),
        (changed(shape=[1, 2]), r"inputs\[0\].shape is \[1, 2\]; a column is \[rows\]"),
        (changed(data=["a", "b"]), r"inputs\[0\].data holds values that are not numbers"),
        (changed(data=[[1], [2, 3]]), r"inputs\[0\].data is ragged"),
        (changed(datatype="UINT8", data=[1, 256]), r"inputs\[0\].data holds values that are no UINT8"),
        (changed(datatype="INT64", data=[1, 2.5]), r"inputs\[0\].data holds values that are no INT64"),
        (changed(shape=[1], data=[1]), r"inputs\[1\] \('job'\) has 2 rows, the tensors before it have 1"),
        ({"inputs": GOOD["inputs"][:1]}, "inputs lacks 'job'"),
        ({"inputs": [*GOOD["inputs"], GOOD["inputs"][0]]}, r"inputs\[2\]: 'age' is given twice"),
        ({**GOOD, "id": 7}, "id must be a string"),
        ({**GOOD, "outputs": [{"name": "logits"}]}, r"outputs\[0\].name must be one of scores, label"),
        ({**GOOD, "outputs": "scores"}, "outputs must be a list"),
    ],
)
def test_each_wrong_infer_body_is_refused_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        protocol.parse_infer(body, TABLE)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("shape", "first_pixels"),
    [
        ([2, 3, 4], [0, 1]),
        ([2, 3, 4, 1], [[0], [1]]),
        ([2, 1, 3, 4], [[0], [1]]),
        ([2, 4, 3, 3], [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_pictures_come_in_any_usual_layout(shape: list[int], first_pixels: Any) -> None:
    data = list(range(int(np.prod(shape))))
    body = {"inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "data": data}]}
    pictures = protocol.parse_infer(body, PICTURE).columns["image"]
    assert len(pictures) == 2
    assert pictures[0].dtype == np.uint8
    assert pictures[0][0, :2].tolist() == first_pixels


def test_channels_first_is_turned_into_channels_last() -> None:
    chw = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    tensor = {"name": "image", "shape": [1, 3, 4, 5], "datatype": "UINT8", "data": chw.reshape(-1).tolist()}
    (picture,) = protocol.parse_infer({"inputs": [tensor]}, PICTURE).columns["image"]
    np.testing.assert_array_equal(picture, chw.transpose(1, 2, 0))


def test_encoded_pictures_are_decoded_from_base64() -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(b"\x89PNG").decode()]}
    assert protocol.parse_infer({"inputs": [tensor]}, PICTURE).columns["image"] == [b"\x89PNG"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"shape": [1], "datatype": "BYTES", "data": ["%%"]}, "not base64"),
        ({"shape": [4, 4], "datatype": "UINT8", "data": [0] * 16}, "an image is"),
        ({"shape": [1, 2, 2, 2], "datatype": "UINT8", "data": [0] * 8}, "1 or 3 channels"),
        ({"shape": [1, 2, 2], "datatype": "FP32", "data": [0.5] * 4}, "whole numbers from 0 to 255"),
        ({"shape": [1, 2, 2], "datatype": "INT64", "data": [-1] * 4}, "whole numbers from 0 to 255"),
    ],
)
def test_wrong_pictures_are_refused(tensor: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        protocol.parse_infer({"inputs": [{"name": "image", **tensor}]}, PICTURE)


@pytest.mark.parametrize("body", [{"rows": [{"age": 1}, {"age": 2}]}, [{"age": 1}, {"age": 2}]])
def test_predict_takes_rows_or_a_list(body: Any) -> None:
    assert protocol.parse_predict(body) == [{"age": 1}, {"age": 2}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "the body must be"),
        ({"age": 41}, "got the keys 'age'"),
        ({"rows": [{}], "extra": 1}, "got the keys 'rows', 'extra'"),
        (3, "rows must be a list of rows, not a number"),
        ({"rows": {"age": 1}}, "rows must be a list of rows, not an object"),
        ([], "rows is empty"),
        ([{"age": 1}, 7], r"rows\[1\] must be an object of columns, not a number"),
        ([None], r"rows\[0\] must be an object of columns, not null"),
    ],
)
def test_each_wrong_predict_body_is_refused_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        protocol.parse_predict(body)
    assert refusal.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b"\xff\xfe", b'{"a": 1} x'])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="the body is not JSON") as refusal:
        protocol.parse_json(body)
    assert refusal.value.status == 400


def test_answers_of_a_classification() -> None:
    predictions = [
        {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}},
        {"label": "no", "score": 0.5, "scores": {"no": 0.5, "yes": 0.5}},
    ]
    answer = protocol.infer_answer(protocol.parse_infer(GOOD, TABLE), predictions, "churn", "3")
    assert answer == {
        "model_name": "churn",
        "model_version": "3",
        "id": "r1",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["yes", "no"]},
        ],
    }


def test_only_the_outputs_that_were_asked_for_are_given() -> None:
    request = protocol.parse_infer({**GOOD, "outputs": [{"name": "label"}]}, TABLE)
    answer = protocol.infer_answer(request, [{"label": "a", "scores": {}}, {"label": "b", "scores": {}}], "m", "1")
    assert [output["name"] for output in answer["outputs"]] == ["label"]


def test_answer_of_a_regression() -> None:
    interface = Interface({"age": "numeric"}, ())
    request = protocol.parse_infer({"inputs": GOOD["inputs"][:1]}, interface)
    answer = protocol.infer_answer(request, [{"value": 1.5}, {"value": -2.0}], "price", "1")
    assert answer["outputs"] == [{"name": "value", "datatype": "FP64", "shape": [2], "data": [1.5, -2.0]}]
    assert "id" not in answer


def test_metadata_offers_an_input_for_each_raw_column() -> None:
    metadata = protocol.model_metadata("churn", "3", TABLE, {"alias": "production"})
    assert metadata["versions"] == ["3"]
    assert metadata["inputs"] == [
        {"name": "age", "datatype": "FP64", "shape": [-1]},
        {"name": "job", "datatype": "BYTES", "shape": [-1]},
    ]
    assert metadata["outputs"][0] == {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}
    assert metadata["parameters"] == {"alias": "production", "classes": ["no", "yes"]}
