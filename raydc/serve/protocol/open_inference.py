"""Open Inference Protocol v2: metadata, requests and answers, as pure functions in the replica.

A v2 input is a raw column of the data set (see `input_tensors`), so a client needs to know nothing
about the features. Outputs are `scores` FP32 [B, K] with `label` BYTES [B], or with `labels` BOOL
[B, K] if a row has several; a regression has `value` FP64 [B], and a forecast of K steps `value`
FP64 [B, K]. All come in JSON or in binary form.

Shape suffixes: B rows, K classes, labels or steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from raydc.errors import shown
from raydc.features import Inputs
from raydc.serve.protocol import binary
from raydc.serve.protocol.input_tensors import fit_to_column, parse_tensor
from raydc.serve.protocol.interface import Interface, RequestError, check_num_rows, json_type_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InferRequest:
    """A parsed v2 request.

    Attributes:
        columns: Raw columns by name, or all of them under `Interface.all_columns`.
        num_rows: Length of every column.
        id: Identifier that the answer repeats; None if the client sent none.
        outputs: Names of the wanted outputs, each with whether it is wanted in binary form.
    """

    columns: dict[str, Any]
    num_rows: int
    id: str | None
    outputs: tuple[tuple[str, bool], ...]

    def inputs(self, interface: Interface, max_pixels: int | None = None) -> Inputs:
        """Computes the network's inputs.

        Args:
            interface: Columns and features of the model, which turn tensors into inputs.
            max_pixels: Largest number of pixels to decode, all images together; None: no limit.

        Returns:
            Rows as the network takes them.

        Raises:
            DataError: A value does not fit its column or is missing and required, or there are too
                many pixels.
        """
        if interface.all_columns in self.columns:
            return interface.features.apply_numbers(self.columns[str(interface.all_columns)])
        return interface.features.apply_given(self.columns, max_pixels)


def model_metadata(
    name: str, version: str, interface: Interface, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Builds the answer to `GET /v2/models/{name}`.

    Args:
        name: Name of the model in the registry.
        version: Version that answers.
        interface: Columns and outputs of the model, which become tensors of the protocol.
        parameters: Further facts, to which classes and the fast input are added.
    """
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


def parse_json(body: bytes | memoryview) -> Any:
    """Parses JSON; if an object has a key twice, the last one wins. Raises RequestError 400."""
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def parse_infer_request(
    body: bytes, header_length: str | None, interface: Interface, max_rows: int
) -> InferRequest:
    """Parses a v2 request.

    Args:
        body: JSON, or JSON and binary data.
        header_length: Header `Inference-Header-Content-Length`: the length of the JSON. "0": the
            body is only the data of the model's `fast_input`. None: the body is only JSON.
        interface: Columns of the model, against which names and shapes are checked.
        max_rows: Largest number of rows, the endpoint's `max_request_rows`.

    Raises:
        RequestError: 400 with the place, 413 if there are too many rows.
    """
    tail: binary.BinaryTail | None = None
    content: bytes | memoryview = body
    if header_length is not None:
        content, tail = binary.split_body(body, header_length)
        if not content:
            return _parse_body_without_json(body, interface, max_rows)
    value = parse_json(content)
    if not isinstance(value, dict):
        raise RequestError(400, f"the body must be an object, not {json_type_of(value)}")
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
        check_num_rows(rows, max_rows, place)
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
                f"inputs has {interface.all_columns!r} and single columns; give one or the other",
            )
        return
    missing = [name for name in interface.kinds if name not in columns]
    if missing:
        raise RequestError(400, f"inputs lacks {', '.join(map(repr, missing))}")


def _parse_body_without_json(body: bytes, interface: Interface, max_rows: int) -> InferRequest:
    """Parses a body that is one tensor; all outputs are wanted in binary form."""
    name, values = parse_single_tensor(body, None, None, interface, max_rows, "the body")
    outputs = tuple((output["name"], True) for output in interface.outputs)
    return InferRequest({name: values}, len(values), None, outputs)


def parse_single_tensor(
    body: bytes,
    datatype: str | None,
    shape: list[int] | None,
    interface: Interface,
    max_rows: int,
    place: str,
) -> tuple[str, Array]:
    """Parses a body that is the data of one tensor, the model's `fast_input`.

    Args:
        body: The tensor's bytes, without JSON.
        datatype: Its datatype; None: that of the `fast_input`.
        shape: Its shape; None: that of the `fast_input`, with as many rows as the body holds.
        interface: Gives the `fast_input` of the model, whose shape the tensor must have.
        max_rows: Largest number of rows, the endpoint's `max_request_rows`.
        place: What to call the body in messages.

    Returns:
        Name and values of the tensor.

    Raises:
        RequestError: 400 if the bytes do not fit, 413 if there are too many rows, 415 if the model
            has no such input.
    """
    fast = interface.fast_input
    if fast is None:
        raise RequestError(
            415,
            f"the inputs of the model ({', '.join(interface.kinds)}) do not fit into one tensor; "
            "send JSON",
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
    check_num_rows(shape[0], max_rows, place)
    values = binary.decode_numbers(memoryview(body), datatype, shape, place)
    return fast["name"], fit_to_column(values, fast["name"], place, interface)


def _parse_id(value: dict[str, Any]) -> str | None:
    identifier = value.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RequestError(400, f"id must be a string, not {json_type_of(identifier)}")
    return identifier


def _parse_outputs(value: dict[str, Any], interface: Interface) -> tuple[tuple[str, bool], ...]:
    """Names of the wanted outputs, each with whether it is wanted in binary form."""
    in_binary = _parse_flag(value, "binary_data_output", "", default=False)
    known = [output["name"] for output in interface.outputs]
    wanted = value.get("outputs")
    if wanted is None:
        return tuple((name, in_binary) for name in known)
    if not isinstance(wanted, list):
        raise RequestError(400, f"outputs must be a list, not {json_type_of(wanted)}")
    parsed: dict[str, bool] = {}
    for index, output in enumerate(wanted):
        if not isinstance(output, dict) or output.get("name") not in known:
            raise RequestError(400, f"outputs[{index}].name must be one of {', '.join(known)}")
        if output["name"] in parsed:
            raise RequestError(400, f"outputs[{index}]: {output['name']!r} is named twice")
        parsed[output["name"]] = _parse_flag(
            output, "binary_data", f"outputs[{index}].", default=in_binary
        )
    # An empty list means all outputs, as in Triton.
    return tuple(parsed.items()) or tuple((name, in_binary) for name in known)


def _parse_flag(value: dict[str, Any], name: str, place: str, default: bool) -> bool:
    """Reads a boolean from the `parameters` of a request or of an output."""
    parameters = value.get("parameters")
    if parameters is None:
        return default
    if not isinstance(parameters, dict):
        raise RequestError(
            400, f"{place}parameters must be an object, not {json_type_of(parameters)}"
        )
    # Triton's extension. Ignored, it would return scores to a client that expects classes.
    if parameters.get("classification"):
        raise RequestError(
            400, f"{place}parameters.classification is not supported; use scores and label"
        )
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise RequestError(400, f"{place}parameters.{name} is {shown(flag)}; give true or false")
    return flag


def encode_infer_answer(
    request: InferRequest, values_BK: Array, interface: Interface, model: str, version: str
) -> tuple[bytes, int | None]:
    """Encodes the answer to a v2 request.

    Args:
        request: The request, which names the outputs.
        values_BK: Scores or values [B, K] as `Features.values` returns them.
        interface: Says whether the outputs are scores and label, or a value.
        model: Name of the model, which the answer repeats.
        version: Version that answered, which the answer repeats.

    Returns:
        The body, and the length of its JSON part; None if the body is JSON only.
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
            blobs.append(binary.encode_tensor(value, datatype))
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
        return {"value": values_BK if values_BK.shape[1] > 1 else values_BK[:, 0]}
    chosen = interface.features.choose(values_BK)
    scores_BK = values_BK.astype(np.float32)
    if interface.features.has_label_sets:
        return {"scores": scores_BK, "labels": chosen.astype(np.bool_)}
    return {"scores": scores_BK, "label": [interface.classes[at] for at in chosen.tolist()]}
