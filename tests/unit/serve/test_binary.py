"""The binary tensor data extension, in both directions, and how each wrong size is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import small_models

from raydc.features import Features, Numeric, Signature
from raydc.serve.protocol import binary, open_inference
from raydc.serve.protocol.interface import Interface, RequestError

TABLE = Interface(small_models.table_features())
PICTURE = Interface(small_models.picture_features())
NUMBER = Numeric(mean=2.0, shift=1.0, scale=4.0)
NUMBERS = Interface(
    Features(
        Signature("vector", (2,), "float32", (), (), "regression"),
        "price",
        {"a": NUMBER, "b": NUMBER},
    )
)


def bytes_tensor(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def parse(
    inputs: list[dict[str, Any]], blobs: list[bytes], interface: Interface, **fields: Any
) -> Any:
    """Parses a request whose tensors have the given data."""
    tensors = [
        {**tensor, "parameters": {"binary_data_size": len(blob), **tensor.get("parameters", {})}}
        for tensor, blob in zip(inputs, blobs, strict=True)
    ]
    head = json.dumps({"inputs": tensors, **fields}).encode()
    return open_inference.parse_infer_request(
        b"".join([head, *blobs]), str(len(head)), interface, 100
    )


def one(datatype: str, shape: list[int], name: str = "image") -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": shape}]


def test_binary_pixels_are_decoded_without_json() -> None:
    pixels = np.stack(small_models.pictures(3))
    request = parse(one("UINT8", [3, 8, 8]), [pixels.tobytes()], PICTURE)
    image = request.columns["image"]
    assert not image.flags.owndata
    assert not image.flags.writeable, "it is a view of the body"
    np.testing.assert_array_equal(request.inputs(PICTURE), pixels.transpose(0, 3, 1, 2))
    assert np.shares_memory(request.inputs(PICTURE), image), "grey images are not even copied"


def test_binary_columns_equal_those_in_json() -> None:
    rows = small_models.table_rows(4)
    ages = np.array([row["age"] for row in rows], dtype="<i2")
    hours = np.array([row["hours"] for row in rows], dtype="<f8")
    jobs = bytes_tensor(*(row["job"].encode() for row in rows))
    inputs = [*one("INT16", [4], "age"), *one("FP64", [4, 1], "hours"), *one("BYTES", [4], "job")]
    found = parse(inputs, [ages.tobytes(), hours.tobytes(), jobs], TABLE).inputs(TABLE)
    features = TABLE.features
    np.testing.assert_array_equal(found, features.apply(features.from_json_rows(rows)))


def test_binary_and_json_tensors_mix_in_one_request() -> None:
    head = {
        "inputs": [
            {
                "name": "age",
                "datatype": "FP32",
                "shape": [1],
                "parameters": {"binary_data_size": 4},
            },
            {"name": "hours", "datatype": "FP32", "shape": [1], "data": [38.0]},
            {
                "name": "job",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": 8},
            },
        ]
    }
    content = json.dumps(head).encode()
    body = content + struct.pack("<f", 30.0) + bytes_tensor(b"cook")
    request = open_inference.parse_infer_request(body, str(len(content)), TABLE, 100)
    assert request.columns == {"age": [30.0], "hours": [38.0], "job": ["cook"]}


@pytest.mark.parametrize("datatype", list(binary.DATATYPES))
def test_binary_every_datatype_is_decoded(datatype: str) -> None:
    numbers = np.array([[1, 0], [0, 1]])
    if datatype == "BF16":
        blob = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        blob = numbers.astype(binary.DATATYPES[datatype]).tobytes()
    assert len(blob) == 4 * binary.itemsize(datatype)
    found = parse(one(datatype, [2, 2], "columns"), [blob], NUMBERS).inputs(NUMBERS)
    np.testing.assert_array_equal(found, ((numbers - 1) / 4).astype(np.float32))


def test_binary_nan_is_a_missing_number() -> None:
    blob = np.array([[np.nan, 3.0]], dtype="<f4").tobytes()
    found = parse(one("FP32", [1, 2], "columns"), [blob], NUMBERS).inputs(NUMBERS)
    np.testing.assert_array_equal(found, [[0.25, 0.5]])


@pytest.mark.parametrize(
    ("tensor", "blob", "message"),
    [
        (
            one("UINT8", [1, 8, 8]),
            bytes(63),
            r"inputs\[0\] has 63 bytes of data, UINT8 \[1, 8, 8\] needs 64",
        ),
        (one("UINT8", [1, 8, 8]), bytes(65), "has 65 bytes of data"),
        (one("UINT8", [1, 7, 9, 5]), bytes(315), r"shape is \[1, 7, 9, 5\], expected \[-1, 8, 8\]"),
        (one("UINT8", [10**18, 10**18]), bytes(64), "has 64 bytes of data"),
        (
            one("FP32", [1, 8, 8]),
            np.full(64, np.nan, "<f4").tobytes(),
            "pixels are integers from 0 to 255",
        ),
        (
            one("FP32", [1, 8, 8]),
            np.full(64, np.inf, "<f4").tobytes(),
            "pixels are integers from 0 to 255",
        ),
        (
            one("FP32", [1, 8, 8]),
            np.full(64, 256.0, "<f4").tobytes(),
            "pixels are integers from 0 to 255",
        ),
        (one("BOOL", [1, 8, 8]), bytes(64), "pixels are integers from 0 to 255"),
        (one("BOOL", [1, 8, 8]), bytes([2] * 64), "neither 0 nor 1"),
        (one("BYTES", [1]), b"\x05\0\0\0abc", "the text at byte 0 of its binary data is cut off"),
        (one("BYTES", [1]), b"\x05\0", "the text at byte 0 of its binary data is cut off"),
        (
            one("BYTES", [1]),
            b"\xff\xff\xff\xff",
            "the text at byte 0 of its binary data is cut off",
        ),
        (one("BYTES", [1]), bytes_tensor(b"a", b"b"), "more texts than its shape says: 1"),
        (one("BYTES", [2]), bytes_tensor(b"a"), "has 1 texts in its binary data, its shape says 2"),
        (one("BYTES", [1, 2]), bytes_tensor(b"a", b"b"), r"shape is \[1, 2\], expected \[-1\]"),
        (
            [{**one("UINT8", [1, 8, 8])[0], "data": []}],
            bytes(64),
            "both data and parameters.binary_data_size",
        ),
        (
            [{**one("UINT8", [1, 8, 8])[0], "parameters": {"binary_data_size": 65}}],
            bytes(64),
            r"inputs\[0\].parameters.binary_data_size is 65, and 64 bytes of the body are left",
        ),
        (
            [{**one("UINT8", [1, 8, 8])[0], "parameters": {"binary_data_size": 63}}],
            bytes(64),
            "has 63 bytes of data",
        ),
        (
            [{**one("UINT8", [1, 8, 8])[0], "parameters": {"binary_data_size": -1}}],
            bytes(64),
            "is -1; give a number",
        ),
        (
            [{**one("UINT8", [1, 8, 8])[0], "parameters": {"binary_data_size": True}}],
            bytes(64),
            "is True; give",
        ),
        (
            [{**one("UINT8", [1, 8, 8])[0], "parameters": {"shared_memory_region": "r"}}],
            b"",
            "shared memory is not supported",
        ),
    ],
)
def test_binary_wrong_tensor_is_refused_with_its_place(
    tensor: Any, blob: bytes, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        parse(tensor, [blob], PICTURE)
    assert refusal.value.status == 400


def test_binary_text_not_utf8_is_refused() -> None:
    inputs = [*one("FP32", [1], "age"), *one("FP32", [1], "hours"), *one("BYTES", [1], "job")]
    with pytest.raises(RequestError, match=r"inputs\[2\]: .*not UTF-8"):
        parse(inputs, [bytes(4), bytes(4), bytes_tensor(b"\xff\xfe")], TABLE)


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ("x", b"{}", "Inference-Header-Content-Length is 'x'"),
        ("-1", b"{}", "Inference-Header-Content-Length is '-1'"),
        ("9" * 30, b"{}", "Inference-Header-Content-Length is '999"),
        ("²", b"{}", "Inference-Header-Content-Length is '²'"),
        ("3", b"{}", "Inference-Header-Content-Length is 3, and the body has 2 bytes"),
        ("1", b"{}", "the body is not JSON"),
        ("0", b"", "the body has 0 bytes; a row UINT8 [8, 8] has 64"),
        ("0", bytes(65), "the body has 65 bytes; a row UINT8 [8, 8] has 64"),
    ],
)
def test_binary_wrong_json_length_is_refused(header: str, body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        open_inference.parse_infer_request(body, header, PICTURE, 100)
    assert message in str(refusal.value)
    assert refusal.value.status == 400


def test_binary_bytes_of_no_tensor_are_refused() -> None:
    tensor = {**one("UINT8", [1, 8, 8])[0], "data": [0] * 64}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(RequestError, match="the body has 3 bytes after the data of its inputs"):
        open_inference.parse_infer_request(head + b"abc", str(len(head)), PICTURE, 100)
    with pytest.raises(RequestError, match="needs the header Inference-Header-Content-Length"):
        open_inference.parse_infer_request(
            json.dumps(
                {"inputs": [{**one("UINT8", [1, 8, 8])[0], "parameters": {"binary_data_size": 64}}]}
            ).encode(),
            None,
            PICTURE,
            100,
        )


def test_binary_body_without_json_is_the_fast_input() -> None:
    pixels = np.stack(small_models.pictures(2))
    request = open_inference.parse_infer_request(pixels.tobytes(), "0", PICTURE, 100)
    np.testing.assert_array_equal(request.columns["image"], pixels[:, :, :, 0])
    assert request.outputs == (("scores", True), ("label", True))
    with pytest.raises(RequestError) as refusal:
        open_inference.parse_infer_request(b"abcd", "0", TABLE, 100)
    assert refusal.value.status == 415


# Answers -----------------------------------------------------------------------------------------


def answer(parameters: Any = None, outputs: Any = None) -> tuple[dict[str, Any], bytes]:
    fields = {"parameters": parameters, "outputs": outputs}
    request = parse(one("UINT8", [2, 8, 8]), [bytes(128)], PICTURE, **fields)
    values_BK = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    body, json_bytes = open_inference.encode_infer_answer(request, values_BK, PICTURE, "m", "1")
    head = body if json_bytes is None else body[:json_bytes]
    return json.loads(head), body[len(head) :]


def test_binary_outputs_are_encoded() -> None:
    head, tail = answer({"binary_data_output": True})
    scores, label = head["outputs"]
    assert scores == {
        "name": "scores",
        "datatype": "FP32",
        "shape": [2, 3],
        "parameters": {"binary_data_size": 24},
    }
    assert label["parameters"] == {"binary_data_size": len(bytes_tensor(b"no", b"perhaps"))}
    np.testing.assert_allclose(np.frombuffer(tail[:24], "<f4"), [0.5, 0.25, 0.25, 0.25, 0.25, 0.5])
    assert tail[24:] == bytes_tensor(b"no", b"perhaps")


def test_binary_flag_of_an_output_overrides_the_request() -> None:
    head, tail = answer(
        {"binary_data_output": True}, [{"name": "scores", "parameters": {"binary_data": False}}]
    )
    assert "data" in head["outputs"][0]
    assert tail == b""
    wanted = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "scores"}]
    head, tail = answer(None, wanted)
    assert [output["name"] for output in head["outputs"]] == ["label", "scores"]
    assert "data" in head["outputs"][1]
    assert tail == bytes_tensor(b"no", b"perhaps")


@pytest.mark.parametrize(
    ("parameters", "outputs", "message"),
    [
        ({"binary_data_output": 1}, None, "parameters.binary_data_output is 1; give true or false"),
        ([], None, "parameters must be an object, not a list"),
        (
            None,
            [{"name": "label", "parameters": {"binary_data": "yes"}}],
            r"outputs\[0\].parameters.binary_data is 'yes'",
        ),
        (None, [{"name": "label", "parameters": 3}], r"outputs\[0\].parameters must be an object"),
        (None, [{"name": "label"}, {"name": "label"}], r"outputs\[1\]: 'label' is named twice"),
        (None, [{"name": ["label"]}], r"outputs\[0\].name must be one of"),
        (
            None,
            [{"name": "scores", "parameters": {"classification": 3}}],
            "classification is not supported",
        ),
    ],
)
def test_binary_wrong_output_flags_are_refused(parameters: Any, outputs: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        answer(parameters, outputs)
