"""Replies are typed, and those of other servers are reported."""

from __future__ import annotations

import json

import pytest
from scripted_endpoint import Asking, Scripted, ask_waiting

from raydc.client import Prediction
from raydc.errors import ServeError


def test_predict_returns_label_and_scores(endpoint: Scripted, ask: Asking) -> None:
    one = {"label": "yes", "score": 0.75, "scores": {"yes": 0.75, "no": 0.25}, "later": 1}
    endpoint.answers = [
        (200, {}, json.dumps({"predictions": [one], "model": "m", "version": 7}).encode())
    ]
    answer = ask(endpoint.url)
    assert answer.predictions == (Prediction("yes", 0.75, {"yes": 0.75, "no": 0.25}),)
    assert answer.version == "7"


def test_metadata_is_typed(endpoint: Scripted, ask: Asking) -> None:
    x, y = (
        {"name": "x", "datatype": "FP32", "shape": [-1]},
        {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
    )
    value = {
        "name": "m",
        "versions": ["1", "2"],
        "inputs": [x],
        "outputs": [y],
        "parameters": {"task": "regression"},
    }
    endpoint.answers = [(200, {}, json.dumps(value).encode())]
    found = ask(endpoint.url, method="metadata", given=(), model="m")
    assert (found.name, found.versions, found.outputs[0].shape) == ("m", ("1", "2"), (-1, 3))


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"predictions": 1}', b'{"predictions": [1], "model": 1}']
)
def test_answer_of_another_server_raises_serve_error(endpoint: Scripted, body: bytes) -> None:
    endpoint.answers = [(200, {}, body)]
    with pytest.raises(ServeError, match="Is that address an endpoint"):
        ask_waiting(endpoint.url)
