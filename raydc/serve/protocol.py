"""What goes over the wire: the Open Inference Protocol v2 and `/predict`, as pure functions.

A v2 input is a raw column of the data set (see `tensors`), so that a client needs to know nothing of the
features. The outputs are `scores` FP32 [B, K] and `label` BYTES [B], or `value` FP64 [B] for a regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from raydc.serve.tensors import Interface, RequestError, kind_of, parse_tensor

Columns = dict[str, Any]


@dataclass(frozen=True)
class InferRequest:
    """A parsed v2 request: raw columns of equal length."""

    columns: Columns
    num_rows: int
    id: str | None
    outputs: tuple[str, ...]


# Metadata ---------------------------------------------------------------------------------------------------


def model_metadata(name: str, version: str, interface: Interface, parameters: dict[str, Any]) -> dict[str, Any]:
    """The answer to `GET /v2/models/{name}`."""
    return {
        "name": name,
        "versions": [version],
        "platform": "raydc_pytorch",
        "inputs": [_input_metadata(column, kind) for column, kind in interface.kinds.items()],
        "outputs": _output_metadata(interface),
        "parameters": {**parameters, "classes": list(interface.classes)},
    }


def _input_metadata(name: str, kind: str) -> dict[str, Any]:
    if kind == "image":
        return {
            "name": name,
            "datatype": "BYTES",
            "shape": [-1],
            "parameters": {"content_type": "base64", "also": "UINT8 [-1,H,W], [-1,H,W,C] or [-1,C,H,W]"},
        }
    return {"name": name, "datatype": "FP64" if kind == "numeric" else "BYTES", "shape": [-1]}


def _output_metadata(interface: Interface) -> list[dict[str, Any]]:
    if not interface.classes:
        return [{"name": "value", "datatype": "FP64", "shape": [-1]}]
    return [
        {"name": "scores", "datatype": "FP32", "shape": [-1, len(interface.classes)]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


# Requests ---------------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """Raises RequestError 400."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def parse_predict(value: Any) -> list[dict[str, Any]]:
    """The rows of a `/predict` body: `{"rows": [...]}`, or a list of rows.

    Raises:
        RequestError: 400 with the place.
    """
    if isinstance(value, dict):
        unknown = [key for key in value if key != "rows"]
        if unknown or "rows" not in value:
            got = f"; got the keys {', '.join(map(repr, value))}" if value else ""
            raise RequestError(400, f'the body must be {{"rows": [{{"column": value, ...}}, ...]}}{got}')
        value = value["rows"]
    if not isinstance(value, list):
        raise RequestError(400, f"rows must be a list of rows, not {kind_of(value)}")
    if not value:
        raise RequestError(400, "rows is empty")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise RequestError(400, f"rows[{index}] must be an object of columns, not {kind_of(row)}")
    return value


def parse_infer(value: Any, interface: Interface) -> InferRequest:
    """A v2 request.

    Raises:
        RequestError: 400 with the place.
    """
    if not isinstance(value, dict):
        raise RequestError(400, f"the body must be an object, not {kind_of(value)}")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(400, "inputs must be a list with one tensor for each column")
    columns: Columns = {}
    num_rows: int | None = None
    for index, tensor in enumerate(inputs):
        place = f"inputs[{index}]"
        name, column, rows = parse_tensor(tensor, place, interface)
        if name in columns:
            raise RequestError(400, f"{place}: {name!r} is given twice")
        if num_rows is not None and rows != num_rows:
            raise RequestError(400, f"{place} ({name!r}) has {rows} rows, the tensors before it have {num_rows}")
        columns[name], num_rows = column, rows
    missing = [name for name in interface.kinds if name not in columns]
    if missing:
        raise RequestError(400, f"inputs lacks {', '.join(map(repr, missing))}")
    return InferRequest(columns, num_rows or 0, _parse_id(value), _parse_outputs(value, interface))


def _parse_id(value: dict[str, Any]) -> str | None:
    identifier = value.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RequestError(400, f"id must be a string, not {kind_of(identifier)}")
    return identifier


def _parse_outputs(value: dict[str, Any], interface: Interface) -> tuple[str, ...]:
    known = [output["name"] for output in _output_metadata(interface)]
    wanted = value.get("outputs")
    if wanted is None:
        return tuple(known)
    if not isinstance(wanted, list):
        raise RequestError(400, f"outputs must be a list, not {kind_of(wanted)}")
    for index, output in enumerate(wanted):
        if not isinstance(output, dict) or output.get("name") not in known:
            raise RequestError(400, f"outputs[{index}].name must be one of {', '.join(known)}")
    return tuple(output["name"] for output in wanted) or tuple(known)


# Answers ----------------------------------------------------------------------------------------------------


def infer_answer(request: InferRequest, predictions: list[dict[str, Any]], model: str, version: str) -> dict[str, Any]:
    """The answer to a v2 request, from `Features.decode`'s predictions."""
    outputs = [_output(name, predictions) for name in request.outputs]
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    return answer


def _output(name: str, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    num_rows = len(predictions)
    if name == "scores":
        rows = [list(prediction["scores"].values()) for prediction in predictions]
        data = np.array(rows, dtype=np.float32).reshape(-1).tolist()
        return {"name": name, "datatype": "FP32", "shape": [num_rows, len(rows[0])], "data": data}
    datatype = "BYTES" if name == "label" else "FP64"
    return {
        "name": name,
        "datatype": datatype,
        "shape": [num_rows],
        "data": [prediction[name] for prediction in predictions],
    }
