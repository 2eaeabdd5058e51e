"""The Open Inference Protocol v2 as pure functions: metadata, requests and answers, in JSON and in binary form.

A v2 input is a raw column of the data set (see `tensors`), so that a client needs to know nothing of the
features. The outputs are `scores` FP32 [B, K] and `label` BYTES [B], or `value` FP64 [B] for a regression.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from raydc.errors import shown
from raydc.serve.protocol import binary
from raydc.serve.protocol.input_tensors import fit, parse_tensor
from raydc.serve.protocol.interface import Interface, RequestError, check_rows, kind_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InferRequest:
    """A parsed v2 request: raw columns of equal length.

    `outputs` has the names of the outputs that are wanted, and whether in binary form.
    """

    columns: dict[str, Any]
    num_rows: int
    id: str | None
    outputs: tuple[tuple[str, bool], ...]

    def inputs(self, interface: Interface, max_pixels: int | None = None) -> Array:
        """The network's inputs [B, *shape]. Raises DataError."""
        if interface.all_columns in self.columns:
            return interface.features.apply_numbers(self.columns[str(interface.all_columns)])
        return interface.features.apply(self.columns, max_pixels)


# Metadata ---------------------------------------------------------------------------------------------------


def model_metadata(
    name: str, version: str, interface: Interface, parameters: dict[str, Any]
) -> dict[str, Any]:
    """The answer to `GET /v2/models/{name}`."""
    return {
        "name": name,
        "versions": [version],
        "platform": "raydc_pytorch",
        "inputs": interface.inputs,
        "outputs": interface.outputs,
        "parameters": {
            **parameters,
            "classes": list(interface.classes),
            "fast_input": interface.fast_input,
        },
    }


# Requests ---------------------------------------------------------------------------------------------------


def parse_json(body: bytes | memoryview) -> Any:
    """Of an object that has a key twice, the last one counts. Raises RequestError 400."""
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def parse_infer(
    body: bytes, header_length: str | None, interface: Interface, max_rows: int
) -> InferRequest:
    """A v2 request.

    Args:
        body: JSON, or JSON and binary data.
        header_length: The header `Inference-Header-Content-Length`: the length of the JSON; "0" says that the body
            is nothing but the data of the model's `fast_input`; None that it is nothing but JSON.
        interface: Of the model.
        max_rows: Most rows.

    Raises:
        RequestError: 400 with the place, 413 where there are too many rows.
    """
    tail: binary.BinaryTail | None = None
    content: bytes | memoryview = body
    if header_length is not None:
        content, tail = binary.split(body, header_length)
        if not content:
            return _parse_raw(body, interface, max_rows)
    value = parse_json(content)
    if not isinstance(value, dict):
        raise RequestError(400, f"the body must be an object, not {kind_of(value)}")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(400, "inputs must be a list with one tensor for each column")
    columns: dict[str, Any] = {}
    num_rows: int | None = None
    for index, tensor in enumerate(inputs):
        place = f"inputs[{index}]"
        name, column, rows = parse_tensor(tensor, place, interface, tail)
        if name in columns:
            raise RequestError(400, f"{place}: {name!r} is given twice")
        if num_rows is not None and rows != num_rows:
            raise RequestError(
                400, f"{place} ({name!r}) has {rows} rows, the tensors before it have {num_rows}"
            )
        check_rows(rows, max_rows, place)
        columns[name], num_rows = column, rows
    if tail is not None:
        tail.finish()
    _check_complete(columns, interface)
    return InferRequest(columns, num_rows or 0, _parse_id(value), _parse_outputs(value, interface))


def _check_complete(columns: dict[str, Any], interface: Interface) -> None:
    if interface.all_columns in columns:
        if len(columns) > 1:
            raise RequestError(
                400,
                f"inputs has {interface.all_columns!r} and columns beside it; give one or the other",
            )
        return
    missing = [name for name in interface.kinds if name not in columns]
    if missing:
        raise RequestError(400, f"inputs lacks {', '.join(map(repr, missing))}")


def _parse_raw(body: bytes, interface: Interface, max_rows: int) -> InferRequest:
    """A body without any JSON; all outputs come in binary form."""
    name, values = parse_raw(body, None, None, interface, max_rows, "the body")
    outputs = tuple((output["name"], True) for output in interface.outputs)
    return InferRequest({name: values}, len(values), None, outputs)


def parse_raw(
    body: bytes,
    datatype: str | None,
    shape: list[int] | None,
    interface: Interface,
    max_rows: int,
    place: str,
) -> tuple[str, Array]:
    """A body that is the data of one tensor, `fast_input`, whose datatype and shape hold where None is given.

    Returns:
        Its name and values.

    Raises:
        RequestError: 400, or 415 where the model has no such input, or 413 where there are too many rows.
    """
    fast = interface.fast_input
    if fast is None:
        raise RequestError(
            415, f"the model takes {', '.join(interface.kinds)} and no single tensor; send JSON"
        )
    datatype = datatype or fast["datatype"]
    if shape is None:
        row = fast["shape"][1:]
        row_bytes = math.prod(row) * binary.itemsize(datatype)
        if not body or len(body) % row_bytes:
            raise RequestError(
                400, f"{place} has {len(body)} bytes; a row {datatype} {row} has {row_bytes}"
            )
        shape = [len(body) // row_bytes, *row]
    check_rows(shape[0], max_rows, place)
    values = binary.numbers(memoryview(body), datatype, shape, place)
    return fast["name"], fit(values, fast["name"], place, interface)


def _parse_id(value: dict[str, Any]) -> str | None:
    identifier = value.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RequestError(400, f"id must be a string, not {kind_of(identifier)}")
    return identifier


def _parse_outputs(value: dict[str, Any], interface: Interface) -> tuple[tuple[str, bool], ...]:
    in_binary = _flag(value, "binary_data_output", "", default=False)
    known = [output["name"] for output in interface.outputs]
    wanted = value.get("outputs")
    if wanted is None:
        return tuple((name, in_binary) for name in known)
    if not isinstance(wanted, list):
        raise RequestError(400, f"outputs must be a list, not {kind_of(wanted)}")
    parsed: dict[str, bool] = {}
    for index, output in enumerate(wanted):
        if not isinstance(output, dict) or output.get("name") not in known:
            raise RequestError(400, f"outputs[{index}].name must be one of {', '.join(known)}")
        if output["name"] in parsed:
            raise RequestError(400, f"outputs[{index}]: {output['name']!r} is asked for twice")
        parsed[output["name"]] = _flag(
            output, "binary_data", f"outputs[{index}].", default=in_binary
        )
    return tuple(parsed.items()) or tuple((name, in_binary) for name in known)


def _flag(value: dict[str, Any], name: str, place: str, default: bool) -> bool:
    parameters = value.get("parameters")
    if parameters is None:
        return default
    if not isinstance(parameters, dict):
        raise RequestError(400, f"{place}parameters must be an object, not {kind_of(parameters)}")
    if parameters.get("classification"):
        raise RequestError(
            400, f"{place}parameters.classification is not known here; ask for scores and label"
        )
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise RequestError(400, f"{place}parameters.{name} is {shown(flag)}; give true or false")
    return flag


# Answers ----------------------------------------------------------------------------------------------------


def infer_answer(
    request: InferRequest, values_BK: Array, interface: Interface, model: str, version: str
) -> tuple[bytes, int | None]:
    """The answer to a v2 request, from what `Features.values` gives.

    Returns:
        The body, and the length of its JSON part where binary data follows.
    """
    values = _output_values(values_BK, interface)
    datatypes = {output["name"]: output["datatype"] for output in interface.outputs}
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, in_binary in request.outputs:
        value, datatype = values[name], datatypes[name]
        output: dict[str, Any] = {
            "name": name,
            "datatype": datatype,
            "shape": list(np.shape(value)),
        }
        if in_binary:
            blobs.append(binary.encode(value, datatype))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    content = orjson.dumps(answer)
    return (b"".join([content, *blobs]), len(content)) if blobs else (content, None)


def _output_values(values_BK: Array, interface: Interface) -> dict[str, Any]:
    if not interface.classes:
        return {"value": values_BK[:, 0]}
    labels_B = [interface.classes[best] for best in values_BK.argmax(axis=1).tolist()]
    return {"scores": values_BK.astype(np.float32), "label": labels_B}
