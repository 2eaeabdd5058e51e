"""Open Inference Protocol: requests to raw columns, answers and metadata, wrong requests."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from raydc.errors import DataError
from raydc.features import Categorical, Features, Image, Numeric, Signature
from raydc.serve.protocol import binary, open_inference
from raydc.serve.protocol.interface import Interface, RequestError

AGE = Numeric(mean=40.0, shift=40.0, scale=10.0)
JOB = Categorical(("cook", "nurse"), has_other=False, has_missing=False)
VECTOR = Signature("vector", (3,), "float32", (), (), "classification", ("no", "yes"))
TABLE = Interface(Features(VECTOR, "answer", {"age": AGE, "job": JOB}))


def picture(channels: int) -> Interface:
    """Images of 3 x 4."""
    signature = Signature(
        "image", (channels, 3, 4), "uint8", (), (), "classification", ("cat", "dog", "fox")
    )
    return Interface(Features(signature, "label", {"image": Image(3, 4, channels)}))


PICTURE = picture(1)
NUMBERS = Interface(Features(VECTOR, "answer", {"age": AGE, "size": AGE, "weight": AGE}))


def parse(
    body: Any, interface: Interface = TABLE, max_rows: int = 100
) -> open_inference.InferRequest:
    return open_inference.parse_infer_request(json.dumps(body).encode(), None, interface, max_rows)


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


def test_infer_request_holds_raw_columns() -> None:
    request = parse(GOOD)
    assert (request.id, request.num_rows) == ("r1", 2)
    assert request.outputs == (("scores", False), ("label", False))
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
        (changed(name="agee"), r"inputs\[0\].name is 'agee'; did you mean age\?"),
        (changed(name="x"), "the model's inputs are 'age', 'job'"),
        (changed(datatype="FP17"), r"inputs\[0\].datatype is 'FP17'; known datatypes:"),
        (changed(shape=[3]), r"inputs\[0\].data has 2 values, shape \[3\] needs 3"),
        (changed(shape=[]), r"inputs\[0\].shape must be a list of integers"),
        (changed(shape=[True]), r"inputs\[0\].shape must be a list of integers"),
        (changed(shape=[-1]), r"inputs\[0\].shape must be a list of integers"),
        (changed(shape=[1, 2]), r"inputs\[0\].shape is \[1, 2\], expected \[-1\]"),
        (changed(data=["a", "b"]), r"inputs\[0\].data: its values are not numbers"),
        (changed(data=[[1], [2, 3]]), r"inputs\[0\].data: its rows differ in length"),
        (
            changed(datatype="UINT8", data=[1, 256]),
            r"inputs\[0\].data holds values that are not UINT8",
        ),
        (
            changed(datatype="INT64", data=[1, 2.5]),
            r"inputs\[0\].data holds values that are not INT64",
        ),
        (
            changed(shape=[1], data=[1]),
            r"inputs\[1\] \('job'\) has 2 rows, the tensors before it have 1",
        ),
        ({"inputs": GOOD["inputs"][:1]}, "inputs lacks 'job'"),
        ({"inputs": [*GOOD["inputs"], GOOD["inputs"][0]]}, r"inputs\[2\]: 'age' is given twice"),
        ({**GOOD, "id": 7}, "id must be a string"),
        (
            {**GOOD, "outputs": [{"name": "logits"}]},
            r"outputs\[0\].name must be one of scores, label",
        ),
        ({**GOOD, "outputs": "scores"}, "outputs must be a list"),
    ],
)
def test_infer_request_wrong_body_is_refused_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        parse(body)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("shape", "first_pixels"),
    [
        ([2, 3, 4], [0, 1]),
        ([2, 3, 4, 1], [[0], [1]]),
        ([2, 1, 3, 4], [[0], [1]]),
        ([2, 4, 3, 3], [[0, 1, 2], [3, 4, 5]]),
        ([2, 12], [0, 1]),
    ],
)
def test_image_tensor_in_any_usual_layout_is_accepted(shape: list[int], first_pixels: Any) -> None:
    data = list(range(int(np.prod(shape))))
    body = {"inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "data": data}]}
    pictures = parse(body, PICTURE).columns["image"]
    assert len(pictures) == 2
    assert pictures[0].dtype == np.uint8
    assert pictures[0][0, :2].tolist() == first_pixels


def test_image_tensor_channels_first_is_transposed() -> None:
    chw = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    tensor = {
        "name": "image",
        "shape": [1, 3, 4, 5],
        "datatype": "UINT8",
        "data": chw.reshape(-1).tolist(),
    }
    (picture,) = parse({"inputs": [tensor]}, PICTURE).columns["image"]
    np.testing.assert_array_equal(picture, chw.transpose(1, 2, 0))


def test_image_bytes_are_decoded_from_base64() -> None:
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "data": [base64.b64encode(b"\x89PNG").decode()],
    }
    assert parse({"inputs": [tensor]}, PICTURE).columns["image"] == [b"\x89PNG"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"shape": [1], "datatype": "BYTES", "data": ["%%"]}, "not base64"),
        (
            {"shape": [4, 4], "datatype": "UINT8", "data": [0] * 16},
            r"shape is \[4, 4\], expected \[-1, 3, 4\]",
        ),
        ({"shape": [1, 2, 2, 2], "datatype": "UINT8", "data": [0] * 8}, r"expected \[-1, 3, 4\]"),
        (
            {"shape": [1, 2, 2], "datatype": "FP32", "data": [0.5] * 4},
            "integers from 0 to 255",
        ),
        (
            {"shape": [1, 2, 2], "datatype": "INT64", "data": [-1] * 4},
            "integers from 0 to 255",
        ),
    ],
)
def test_image_tensor_wrong_is_refused_with_reason(tensor: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse({"inputs": [{"name": "image", **tensor}]}, PICTURE)


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b"\xff\xfe", b'{"a": 1} x'])
def test_infer_request_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="the body is not JSON") as refusal:
        open_inference.parse_json(body)
    assert refusal.value.status == 400


VALUES = np.array([[0.25, 0.75], [0.5, 0.5]])


def answer(
    request: open_inference.InferRequest, values: Any = VALUES, interface: Interface = TABLE
) -> Any:
    body, json_bytes = open_inference.encode_infer_answer(request, values, interface, "churn", "3")
    assert json_bytes is None
    return json.loads(body)


def test_infer_answer_of_classification_has_scores_and_label() -> None:
    assert answer(parse(GOOD)) == {
        "model_name": "churn",
        "model_version": "3",
        "id": "r1",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["yes", "no"]},
        ],
    }


def test_infer_answer_holds_only_named_outputs() -> None:
    request = parse({**GOOD, "outputs": [{"name": "label"}]})
    assert [output["name"] for output in answer(request)["outputs"]] == ["label"]
    assert [output["name"] for output in answer(parse({**GOOD, "outputs": []}))["outputs"]] == [
        "scores",
        "label",
    ]


def test_infer_answer_of_regression_has_value() -> None:
    signature = Signature("vector", (1,), "float32", (), (), "regression")
    features = Features(signature, "price", {"age": AGE}, target_mean=1.0, target_scale=2.0)
    interface = Interface(features)
    request = parse({"inputs": GOOD["inputs"][:1]}, interface)
    given = answer(
        request, features.values(np.array([[0.25], [-1.5]], dtype=np.float32)), interface
    )
    assert given["outputs"] == [
        {"name": "value", "datatype": "FP64", "shape": [2], "data": [1.5, -2.0]}
    ]
    assert "id" not in given


def test_metadata_has_an_input_per_raw_column() -> None:
    metadata = open_inference.model_metadata("churn", "3", TABLE, {"alias": "production"})
    assert metadata["versions"] == ["3"]
    categories = {"kind": "categorical", "categories": ["cook", "nurse"]}
    assert metadata["inputs"] == [
        {"name": "age", "datatype": "FP64", "shape": [-1], "parameters": {"kind": "numeric"}},
        {"name": "job", "datatype": "BYTES", "shape": [-1], "parameters": categories},
    ]
    assert metadata["outputs"][0] == {"name": "scores", "datatype": "FP32", "shape": [-1, 2]}
    assert metadata["parameters"] == {
        "alias": "production",
        "classes": ["no", "yes"],
        "fast_input": None,
    }


def test_metadata_names_the_columns_that_a_request_needs() -> None:
    interface = Interface(dataclasses.replace(TABLE.features, always_given=("age",)))
    inputs = open_inference.model_metadata("m", "1", interface, {})["inputs"]
    assert [one["parameters"].get("required") for one in inputs] == [True, None]


@pytest.mark.parametrize("name", ["a", "columns"])
def test_tensor_with_nan_in_a_required_column_is_refused(name: str) -> None:
    features = Features(VECTOR, "answer", {"a": AGE, "b": AGE}, always_given=("a",))
    values = np.array([[1, 1], [np.nan, 1]], dtype="<f4")
    tensors = {"columns": values} if name == "columns" else {"a": values[:, 0], "b": values[:, 1]}
    head, tail = [], b""
    for key, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        parameters = {"binary_data_size": len(data)}
        shape = list(tensor.shape)
        head.append({"name": key, "shape": shape, "datatype": "FP32", "parameters": parameters})
        tail += data
    text = json.dumps({"inputs": head}).encode()
    for required, outcome in (((), None), (("b",), None), (("a",), "'a'")):
        interface = Interface(dataclasses.replace(features, always_given=required))
        request = open_inference.parse_infer_request(text + tail, str(len(text)), interface, 10)
        if outcome is None:
            assert request.inputs(interface).shape == (2, 2)
            continue
        with pytest.raises(DataError, match=rf"rows\[1\] has no value for {outcome}\n"):
            request.inputs(interface)


def test_metadata_names_the_fast_input() -> None:
    def fast(interface: Interface) -> Any:
        return open_inference.model_metadata("m", "1", interface, {})["parameters"]["fast_input"]

    assert fast(NUMBERS) == {"name": "columns", "datatype": "FP32", "shape": [-1, 3]}
    assert [fast(picture(channels))["shape"] for channels in (1, 3)] == [[-1, 3, 4], [-1, 3, 4, 3]]
    assert fast(Interface(Features(VECTOR, "answer", {"age": AGE})))["name"] == "age"
    taken = Interface(Features(VECTOR, "answer", {"age": AGE, "columns": AGE}))
    assert fast(taken) is None, "a column has that name"


# All columns in one tensor -----------------------------------------------------------------------


def test_all_columns_tensor_equals_single_columns() -> None:
    values = [[1.5, 2, 3], [4, 5, -6.25]]
    tensor = {"name": "columns", "shape": [2, 3], "datatype": "FP64", "data": values}
    together = parse({"inputs": [tensor]}, NUMBERS)
    apart = [
        {"name": name, "shape": [2], "datatype": "FP64", "data": [row[index] for row in values]}
        for index, name in enumerate(NUMBERS.kinds)
    ]
    assert together.num_rows == 2
    found = together.inputs(NUMBERS)
    np.testing.assert_array_equal(found, parse({"inputs": apart}, NUMBERS).inputs(NUMBERS))
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([{"shape": [1, 2], "data": [1, 2]}], r"inputs\[0\].shape is \[1, 2\], expected \[-1, 3\]"),
        ([{"shape": [3], "data": [1, 2, 3]}], r"inputs\[0\].shape is \[3\], expected \[-1, 3\]"),
        ([{"shape": [1], "datatype": "BYTES", "data": ["1"]}], "'columns' holds numbers"),
        (
            [{"shape": [1, 3], "data": [1, 2, 3]}, {"name": "age", "shape": [1], "data": [1]}],
            "'columns' and single columns",
        ),
    ],
)
def test_all_columns_tensor_wrong_is_refused(tensors: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(
            {"inputs": [{"name": "columns", "datatype": "FP32", **tensor} for tensor in tensors]},
            NUMBERS,
        )


def test_all_columns_tensor_needs_a_model_of_numbers() -> None:
    tensor = {"name": "columns", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    with pytest.raises(RequestError, match="the model's inputs are 'age', 'job'"):
        parse({"inputs": [tensor]})


# Datatypes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", list(binary.DATATYPES))
def test_numeric_column_accepts_any_numeric_datatype(datatype: str) -> None:
    data = [True, False] if datatype == "BOOL" else [1, 0]
    ages = parse(changed(datatype=datatype, data=data)).inputs(TABLE)[:, 0]
    np.testing.assert_allclose(ages, [-3.9, -4.0], rtol=1e-6)


@pytest.mark.parametrize("data", [list(range(12)), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]])
def test_json_pixels_may_be_flat_or_nested(data: Any) -> None:
    tensor = {"name": "image", "shape": [1, 3, 4], "datatype": "UINT8", "data": data}
    (pixels,) = parse({"inputs": [tensor]}, PICTURE).columns["image"]
    assert pixels.reshape(-1).tolist() == list(range(12))


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("BOOL", [0, 2], "not BOOL"),
        ("BOOL", [0.0, 1.0], "not BOOL"),
        ("FP32", [True, False], "not numbers"),
        ("UINT8", [0, 256], "not UINT8"),
        ("UINT8", [0, 1.0], "not UINT8"),
        ("UINT8", [0, None], "not numbers"),
        ("INT8", [-129, 0], "not INT8"),
        ("UINT64", [-1, 0], "not UINT64"),
        ("INT64", [2**63, 0], "not INT64"),
        ("UINT64", [2**64, 0], "not UINT64"),
        ("FP64", [None, 0], "not numbers"),
        ("FP64", 3, "must be a list, not a number"),
        ("BYTES", [1, 2], "must be a list of strings"),
        (["FP64"], [1, 2], "datatype is"),
        (None, [1, 2], "lacks 'datatype'"),
    ],
)
def test_json_data_outside_its_datatype_is_refused(datatype: Any, data: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(changed(datatype=datatype, data=data))


def test_infer_request_too_many_rows_names_the_limit() -> None:
    with pytest.raises(
        RequestError, match=r"inputs\[0\] has 2 rows; max_request_rows is 1"
    ) as refusal:
        parse(GOOD, TABLE, max_rows=1)
    assert refusal.value.status == 413


def test_error_message_cuts_what_the_client_sent() -> None:
    with pytest.raises(RequestError) as refusal:
        parse(changed(name="x" * 100_000))
    assert len(str(refusal.value)) < 300
