"""numpy arrays as bytes: the client's side of the Open Inference Protocol's binary extension.

The body starts with JSON, whose length is in the header `Inference-Header-Content-Length`. After it
come the bytes of the tensors in the order of the JSON: little-endian and row-major. An element of a
BYTES tensor is its length as uint32 and its bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.client.replies import Reply, Tensors, parse_json
from raydc.errors import ServeError, UsageError

# Length of the JSON part in bytes. Header names of a `Reply` are in lower case.
HEADER = "inference-header-content-length"
# The endpoint (`serve.protocol.binary`) reads and writes by the same table.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}

Array = npt.NDArray[Any]


def encode(inputs: Mapping[str, Any], outputs: Sequence[str] | None) -> tuple[bytes, int]:
    """Encodes a v2 request.

    Args:
        inputs: Arrays by name, or anything that numpy converts to an array.
        outputs: Names of the wanted outputs; None means all.

    Returns:
        The body, and the length of the JSON at its start.

    Raises:
        UsageError: There is no input, or one is not a tensor.
    """
    if not inputs:
        raise UsageError(
            "no inputs", "Give an array for each input of the model; `metadata` names them."
        )
    tensors, chunks = [], []
    for name, value in inputs.items():
        datatype, shape, chunk = _encode(name, value)
        chunks.append(chunk)
        parameters = {"binary_data_size": len(chunk)}
        tensors.append(
            {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}
        )
    request: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        request["outputs"] = [
            {"name": name, "parameters": {"binary_data": True}} for name in outputs
        ]
    header = json.dumps(request).encode()
    return b"".join([header, *chunks]), len(header)


def decode(reply: Reply) -> Tensors:
    """Decodes the outputs of a v2 answer, binary or JSON. Raises ServeError for anything else."""
    try:
        # Without the header, all of the body is JSON.
        size = int(reply.headers.get(HEADER, len(reply.body)))
        value = parse_json(Reply(reply.status, reply.headers, reply.body[:size], reply.request_id))
        outputs: dict[str, Array] = {}
        for output in value["outputs"]:
            num_bytes = output.get("parameters", {}).get("binary_data_size")
            if num_bytes is None:
                outputs[output["name"]] = _from_json(output)
            else:
                outputs[output["name"]] = _from_bytes(output, reply.body[size : size + num_bytes])
                size += num_bytes
        return Tensors(
            outputs, str(value["model_name"]), str(value.get("model_version", "")), reply.request_id
        )
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ServeError(
            f"the endpoint answered tensors that are not as expected: {error!r}",
            "Does it speak the Open Inference Protocol?",
        ) from error


def _encode(name: str, value: Any) -> tuple[str, list[int], bytes]:
    array = np.asarray(value)
    if array.ndim == 0:
        raise UsageError(
            f"input {name!r} is a single value",
            "The first axis is the rows: give a list or an array.",
        )
    # Kinds of object, bytes and text: numpy may convert a list of str to any of them.
    if array.dtype.kind in "OSU":
        return "BYTES", list(array.shape), _encode_texts(name, array)
    for datatype, dtype in DATATYPES.items():
        if array.dtype.kind == dtype.kind and array.dtype.itemsize == dtype.itemsize:
            return datatype, list(array.shape), array.astype(dtype, copy=False).tobytes()
    raise UsageError(
        f"input {name!r} has dtype {array.dtype}",
        f"Convert it to one of {', '.join(DATATYPES)} or text.",
    )


def _encode_texts(name: str, array: Array) -> bytes:
    chunks = []
    for index, item in enumerate(array.reshape(-1).tolist()):
        if not isinstance(item, str | bytes):
            raise UsageError(
                f"input {name!r}[{index}] is {item!r:.40}",
                "An array of objects holds str or bytes only.",
            )
        content = item.encode() if isinstance(item, str) else item
        chunks += [struct.pack("<I", len(content)), content]
    return b"".join(chunks)


def _from_bytes(output: Mapping[str, Any], content: bytes) -> Array:
    shape = output["shape"]
    if output["datatype"] == "BYTES":
        texts, start = [], 0
        for _ in range(math.prod(shape)):
            (length,) = struct.unpack_from("<I", content, start)
            texts.append(content[start + 4 : start + 4 + length].decode())
            start += 4 + length
        return np.array(texts, dtype=object).reshape(shape)
    # A view of the reply, without a copy; it is read-only.
    return np.frombuffer(content, DATATYPES[output["datatype"]]).reshape(shape)


def _from_json(output: Mapping[str, Any]) -> Array:
    dtype = object if output["datatype"] == "BYTES" else DATATYPES[output["datatype"]]
    return np.array(output["data"], dtype=dtype).reshape(output["shape"])
