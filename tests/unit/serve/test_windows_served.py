"""An endpoint of a series: past steps in every form answer as offline, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from in_process import post, request
from record_endpoint import RecordEndpoint
from window_rows import LENGTH, window_features, window_requests

from raydc.serve.protocol import examples, openapi_schemas
from raydc.serve.protocol.interface import Interface

ROWS = window_requests(6)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> RecordEndpoint:
    return RecordEndpoint(tmp_path_factory.mktemp("windows"), window_features(horizon=1))


def _numbers(row: dict[str, Any]) -> list[list[float]]:
    return [
        [step["load"], step["heat"]] if isinstance(step, dict) else step for step in row["window"]
    ]


def test_objects_and_lists_of_steps_have_the_same_answer(endpoint: RecordEndpoint) -> None:
    expected = endpoint.bundle.predict_rows(ROWS)
    status, answer = endpoint.respond(post("/predict", {"rows": ROWS}))
    assert status == 200
    assert answer["predictions"] == expected
    plain = [{**row, "window": _numbers(row)} for row in ROWS]
    assert endpoint.respond(post("/predict", {"rows": plain}))[1]["predictions"] == expected
    for row, one in zip(ROWS, expected, strict=True):
        assert endpoint.respond(post("/predict", [row]))[1]["predictions"] == [one]


def test_a_tensor_of_steps(endpoint: RecordEndpoint) -> None:
    window = np.array([_numbers(row) for row in ROWS])
    inputs = [
        {"name": "window", "shape": list(window.shape), "datatype": "FP64"},
        {"name": "size", "shape": [6], "datatype": "FP64", "data": [row["size"] for row in ROWS]},
    ]
    inputs[0]["data"] = window.reshape(-1).tolist()
    status, answer = endpoint.respond(post("/v2/models/small/infer", {"inputs": inputs}))
    assert status == 200, answer
    expected = [one["value"] for one in endpoint.bundle.predict_rows(ROWS)]
    assert answer["outputs"][0]["data"] == expected
    inputs[0] |= {"shape": [6, 2 * LENGTH]}
    status, answer = endpoint.respond(post("/v2/models/small/infer", {"inputs": inputs}))
    assert status == 400
    assert f"expected [-1, {LENGTH}, 2]" in answer["error"]


def test_a_cell_of_csv_holds_steps_as_json(endpoint: RecordEndpoint) -> None:
    interface = Interface(endpoint.bundle.features)
    content = examples.example_csv(interface).encode()
    status, answer = endpoint.respond(
        request("POST", "/predict", content, {"content-type": "text/csv"})
    )
    assert status == 200, answer
    row = examples.example_row(interface)
    assert answer["predictions"] == endpoint.bundle.predict_rows([row])


def test_examples_are_answered_and_fit_their_schema(endpoint: RecordEndpoint) -> None:
    interface = Interface(endpoint.bundle.features)
    row = examples.example_row(interface)
    assert endpoint.respond(post("/predict", {"rows": [row]}))[0] == 200
    v2 = examples.example_infer_request(interface)
    assert endpoint.respond(post("/v2/models/small/infer", v2))[0] == 200
    schemas = openapi_schemas.build_schemas(interface, endpoint.settings)
    check = jsonschema.Draft202012Validator(schemas["Row"])
    for one in (row, *ROWS):
        check.validate(one)
    assert "window" in schemas["Row"]["required"]
    for wrong in (ROWS[0]["window"][1:], [1.0] * LENGTH, [[1.0]] * LENGTH, None):
        assert not check.is_valid({**ROWS[0], "window": wrong})


def test_the_metadata_has_steps_to_begin_with(endpoint: RecordEndpoint) -> None:
    _, answer = endpoint.respond(request("GET", "/v2/models/small"))
    [window, _] = answer["inputs"]
    assert window["shape"] == [-1, LENGTH, 2]
    assert np.array(json.loads(window["parameters"]["typical"])).shape == (LENGTH, 2)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (None, "rows[0].window: None is not a list of steps"),
        ([[1, 2]] * 3, f"rows[0].window: it has 3 steps, expected {LENGTH}"),
        ([[1, 2, 3]] * LENGTH, "rows[0].window[0]: it has 3 values, expected 2"),
        ([[1, 2]] * 11 + [["x", 2]], "rows[0].window[11].load: 'x' is not a number"),
        ([[1, 2]] * 11 + [[True, 2]], "rows[0].window[11].load: True is not a number"),
        ([[1, 2]] * 11 + [[1, None]], "rows[0].window[11].heat: the value is missing"),
        ([{"load": 1}] * LENGTH, "rows[0].window[0].heat: the value is missing"),
        ([[1, 2]] * 11 + [[1, 1e300]], "rows[0].window[11].heat: 1e+300 is too large"),
        ("[1, 2", "rows[0].window: '[1, 2' is not a list"),
    ],
)
def test_steps_that_do_not_fit_are_named(
    endpoint: RecordEndpoint, window: Any, message: str
) -> None:
    status, answer = endpoint.respond(post("/predict", {"rows": [{"window": window, "size": 1}]}))
    assert status == 422
    assert message in answer["error"]


def test_a_forecast_of_several_steps_is_a_list(tmp_path: Path) -> None:
    endpoint = RecordEndpoint(tmp_path, window_features(horizon=4))
    expected = endpoint.bundle.predict_rows(ROWS)
    assert np.array([one["value"] for one in expected]).shape == (6, 4)
    status, answer = endpoint.respond(post("/predict", {"rows": ROWS}))
    assert status == 200
    assert answer["predictions"] == expected
    schemas = openapi_schemas.build_schemas(Interface(endpoint.bundle.features), endpoint.settings)
    check = jsonschema.Draft202012Validator(schemas["Prediction"])
    check.validate(expected[0])
    assert not check.is_valid({"value": 1.0})
    v2 = examples.example_infer_request(Interface(endpoint.bundle.features))
    status, answer = endpoint.respond(post("/v2/models/small/infer", v2))
    assert status == 200, answer
    assert answer["outputs"][0]["shape"] == [1, 4]
