"""Arrays are sent and received in the binary form of the protocol."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from scripted_endpoint import Asking, Scripted, ask_waiting, binary_answer

from raydc.errors import ServeError, UsageError


def test_infer_sends_and_receives_binary_arrays(endpoint: Scripted, ask: Asking) -> None:
    scores = np.array([[0.25, 0.75], [1.0, 0.0]], dtype="<f4")
    labels = b"".join(struct.pack("<I", len(text)) + text for text in (b"yes", "né".encode()))
    outputs = [
        ({"name": "scores", "datatype": "FP32", "shape": [2, 2]}, scores.tobytes()),
        ({"name": "label", "datatype": "BYTES", "shape": [2]}, labels),
    ]
    endpoint.answers = [binary_answer(outputs)]
    inputs = {
        "age": np.array([41, 7], dtype=">i4"),
        "job": ["cook", "né"],
        "image": np.zeros((2, 4, 3), np.uint8)[:, ::2],
    }
    answer = ask(endpoint.url, method="infer", given=[inputs], model="m/1")
    assert (answer.model, answer.version) == ("m", "3")
    assert np.array_equal(answer.outputs["scores"], scores)
    assert answer.outputs["label"].tolist() == ["yes", "né"]
    ((_, path, headers, body),) = endpoint.requests
    assert path == "/v2/models/m%2F1/infer"
    size = int(headers["inference-header-content-length"])
    sent = json.loads(body[:size])
    assert [(one["name"], one["datatype"], one["shape"]) for one in sent["inputs"]] == [
        ("age", "INT32", [2]),
        ("job", "BYTES", [2]),
        ("image", "UINT8", [2, 2, 3]),
    ]
    assert [one["parameters"]["binary_data_size"] for one in sent["inputs"]] == [8, 15, 12]
    assert body[size : size + 8] == struct.pack("<ii", 41, 7)
    assert (
        body[size + 8 : size + 23]
        == struct.pack("<I", 4) + b"cook" + struct.pack("<I", 3) + "né".encode()
    )
    assert len(body) == size + 35


def test_model_name_is_requested_once(endpoint: Scripted, ask: Asking) -> None:
    output = {"name": "value", "datatype": "FP64", "shape": [1], "data": [2.5]}
    plain = json.dumps({"model_name": "m", "outputs": [output]}).encode()
    endpoint.answers = [(200, {"x-raydc-model": "m"}, b"{}"), (200, {}, plain)]
    answer = ask(endpoint.url, 2, method="infer", given=[{"x": [1.0]}, ["value"]])
    assert answer.outputs["value"].tolist() == [2.5]
    assert [path for _, path, _, _ in endpoint.requests] == [
        "/v2/health/ready",
        *["/v2/models/m/infer"] * 2,
    ]
    assert b'"outputs": [{"name": "value"' in endpoint.requests[1][3]


@pytest.mark.parametrize("value", [1.0, np.zeros(2, complex), [object()]])
def test_infer_names_an_input_that_is_no_tensor(value: Any) -> None:
    with pytest.raises(UsageError, match="input 'x'"):
        ask_waiting("http://a", method="infer", given=[{"x": value}], model="m")


def test_infer_reports_truncated_tensors(endpoint: Scripted) -> None:
    endpoint.answers = [
        binary_answer([({"name": "scores", "datatype": "FP32", "shape": [2, 2]}, b"1234")])
    ]
    with pytest.raises(ServeError, match="not as expected"):
        ask_waiting(endpoint.url, method="infer", given=[{"x": [1]}], model="m")
