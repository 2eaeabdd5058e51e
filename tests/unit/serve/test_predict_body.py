"""Bodies of `/predict`: rows, images, forms, CSV, raw tensors, and wrong ones."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
import small_models
from PIL import Image as Pil

from raydc.errors import DataError, TooManyPixelsError
from raydc.features import Features, Numeric, Signature
from raydc.serve.protocol import predict_body
from raydc.serve.protocol.interface import Interface, RequestError
from raydc.serve.protocol.open_inference import parse_json
from raydc.serve.protocol.predict_body import Body, parse_rows

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
ROW = {"age": 41, "hours": 38.5, "job": "nurse"}


def inputs(
    content: bytes, kind: str, interface: Interface = TABLE, query: str = "", max_rows: int = 100
) -> Any:
    predict_body.check_media_type(predict_body.media_type_of(kind), interface)
    return Body(content, kind, query).inputs(interface, max_rows)


def offline(rows: list[dict[str, Any]], interface: Interface = TABLE) -> Any:
    return interface.features.apply(interface.features.from_json_rows(rows))


def png(
    width: int = 8, height: int = 8, mode: str = "L", kind: str = "PNG", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Pil.new(mode, (width, height)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its content-type; a part is its head and its content."""
    lines = [
        f"--b0\r\n{head}\r\n\r\n".encode(errors="surrogateescape") + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join([*lines, b"--b0--\r\n"]), 'multipart/form-data; boundary="b0"'


def field(name: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def file(content: bytes, kind: str = "image/png", name: str = "file") -> tuple[str, bytes]:
    return (
        f'Content-Disposition: form-data; name="{name}"; filename="x"\r\nContent-Type: {kind}',
        content,
    )


COMPLETE = Interface(
    dataclasses.replace(
        small_models.table_features(), missing_values=("?",), always_given=("age", "job")
    )
)
COMPLETE_NUMBERS = Interface(dataclasses.replace(NUMBERS.features, always_given=("b",)))


# What is understood ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps({"rows": [ROW]}).encode(), "application/json"),
        (json.dumps([ROW]).encode(), "Application/JSON; charset=utf-8"),
        (json.dumps([ROW]).encode(), ""),
        (json.dumps([ROW]).encode(), "application/x-www-form-urlencoded"),
        (b"age=41&hours=38.5&job=nurse", "application/x-www-form-urlencoded"),
        (b"age,hours,job\n41,38.5,nurse\n", "text/csv"),
        (b"\xef\xbb\xbfjob,hours,age\r\nnurse,38.5,41\r\n", "text/csv; charset=utf-8"),
        (b'41,38.5,"nurse"\n', "text/csv"),
        form(field("age", "41"), field("hours", "38.5"), field("job", "nurse")),
        form(file(json.dumps([ROW]).encode(), "application/json")),
        form(file(b"age,hours,job\n41,38.5,nurse\n", "text/csv")),
    ],
)
def test_body_row_in_any_media_type_gives_same_inputs(content: bytes, kind: str) -> None:
    np.testing.assert_array_equal(inputs(content, kind), offline([ROW]))


def test_body_empty_field_or_cell_is_a_missing_value() -> None:
    expected = offline([{"age": None, "hours": 38.5, "job": "nurse"}])
    for content, kind in (
        (b"age,hours,job\n,38.5,nurse\n", "text/csv"),
        (b"age=&hours=38.5&job=nurse", "application/x-www-form-urlencoded"),
        form(field("age", ""), field("hours", "38.5"), field("job", "nurse")),
    ):
        np.testing.assert_array_equal(inputs(content, kind), expected)


def test_body_form_with_several_images_gives_a_row_each() -> None:
    pixels = small_models.pictures(3)
    buffers = []
    for one in pixels:
        buffer = io.BytesIO()
        Pil.fromarray(one[:, :, 0]).save(buffer, format="PNG")
        buffers.append(buffer.getvalue())
    content, kind = form(*(file(one) for one in buffers))
    np.testing.assert_array_equal(
        inputs(content, kind, PICTURE), np.stack(pixels).transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(
        inputs(buffers[0], "image/png", PICTURE)[0, 0], pixels[0][:, :, 0]
    )


@pytest.mark.parametrize(
    ("query", "dtype", "shape"),
    [
        ("", np.uint8, (2, 8, 8)),
        ("dtype=uint8&shape=2,8,8,1", np.uint8, (2, 8, 8, 1)),
        ("shape=[2,64]", np.uint8, (2, 64)),
        ("dtype=float32", np.float32, (2, 8, 8)),
        ("dtype=FP64&shape=2,1,8,8", np.float64, (2, 1, 8, 8)),
    ],
)
def test_body_raw_tensor_of_pixels_is_decoded(
    query: str, dtype: Any, shape: tuple[int, ...]
) -> None:
    pixels = np.stack(small_models.pictures(2))
    content = pixels.reshape(shape).astype(dtype).tobytes()
    found = inputs(content, "application/octet-stream", PICTURE, query)
    np.testing.assert_array_equal(found, pixels.transpose(0, 3, 1, 2))


def test_body_raw_tensor_of_numbers_is_decoded() -> None:
    numbers = np.array([[1, 2], [3, 4], [5, 6]], dtype="<f4")
    expected = offline([{"a": a, "b": b} for a, b in numbers.tolist()], NUMBERS)
    np.testing.assert_array_equal(
        inputs(numbers.tobytes(), "application/octet-stream", NUMBERS), expected
    )


def test_body_raw_tensor_of_a_single_column_is_decoded() -> None:
    price = Interface(small_models.price_features())
    expected = offline([{"size": 30.0}, {"size": 50.5}], price)
    numbers = np.array([30.0, 50.5])
    np.testing.assert_array_equal(
        inputs(numbers.tobytes(), "application/octet-stream", price), expected
    )
    found = inputs(
        numbers.astype("<f4").tobytes(), "application/octet-stream", price, "dtype=float32"
    )
    np.testing.assert_array_equal(found, expected)


def test_body_raw_images_count_with_their_resized_pixels() -> None:
    body = Body(bytes(10), "application/octet-stream", "shape=10,1,1")
    assert body.inputs(PICTURE, 10, 640).shape == (10, 1, 8, 8)
    with pytest.raises(TooManyPixelsError, match=r"rows\[9\]"):
        body.inputs(PICTURE, 10, 639)


@pytest.mark.parametrize("body", [{"rows": [{"age": 1}, {"age": 2}]}, [{"age": 1}, {"age": 2}]])
def test_parse_rows_accepts_object_or_list(body: Any) -> None:
    assert parse_rows(body, 2) == [{"age": 1}, {"age": 2}]


# Refusals ----------------------------------------------------------------------------------------


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
def test_parse_rows_wrong_json_is_refused_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        parse_rows(body, 100)
    assert refusal.value.status == 400


REFUSED: list[tuple[bytes, str, Interface, str, int, str]] = [
    (
        b"{}",
        "text/plain",
        TABLE,
        "",
        415,
        "content-type is 'text/plain'; send application/json, image/\\*",
    ),
    (b"x", "image/png", TABLE, "", 415, "takes no images"),
    (b"", "image/png", PICTURE, "", 400, "the image is empty"),
    (
        b"age=41&age=42",
        "application/x-www-form-urlencoded",
        TABLE,
        "",
        400,
        "field 'age' is given twice",
    ),
    (b"age", "application/x-www-form-urlencoded", TABLE, "", 400, "the form cannot be parsed"),
    (b"age=%ff", "application/x-www-form-urlencoded", TABLE, "", 400, "the form cannot be parsed"),
    (
        b"a=1&" * 500,
        "application/x-www-form-urlencoded",
        TABLE,
        "",
        400,
        "the form cannot be parsed",
    ),
    (b"", "text/csv", TABLE, "", 400, "the CSV file has no rows"),
    (b"age,hours,job\n", "text/csv", TABLE, "", 400, "the CSV file has no rows"),
    (b"1,2\n", "text/csv", TABLE, "", 400, r"rows\[0\] of the CSV file has 2 cells, expected 3"),
    (b"age,age\n1,2\n", "text/csv", TABLE, "", 400, "a column twice"),
    (b'1,2,"x\n', "text/csv", TABLE, "", 400, "line 1 of the CSV file"),
    (b"1,2,\xff\n", "text/csv", TABLE, "", 400, "the CSV file is not UTF-8"),
    (b"1,2,x\n" * 101, "text/csv", TABLE, "", 413, "max_request_rows is 100"),
    (
        json.dumps([ROW] * 101).encode(),
        "application/json",
        TABLE,
        "",
        413,
        "max_request_rows is 100",
    ),
    (b"x", "multipart/form-data", TABLE, "", 400, "needs a boundary"),
    (b"x", f"multipart/form-data; boundary={'b' * 71}", TABLE, "", 400, "needs a boundary"),
    (b"x", "multipart/form-data; boundary=b0", TABLE, "", 400, "does not begin with the boundary"),
    (b"--b0\r\n", "multipart/form-data; boundary=b0", TABLE, "", 400, "the form is cut off"),
    (
        b"--b0x\r\n\r\n--b0--",
        "multipart/form-data; boundary=b0",
        TABLE,
        "",
        400,
        "does not begin with the boundary",
    ),
    (*form(("A: b", b"")), TABLE, "", 400, "part 0 of the form has no name"),
    (*form(("A: " + "b" * 5000, b"")), TABLE, "", 400, "Maximum header size exceeded"),
    (*form(("A: b\r\n" * 9 + "A: b", b"")), TABLE, "", 400, "Maximum header count exceeded"),
    (*form(("A b", b"")), TABLE, "", 400, "the form cannot be parsed"),
    (
        *form(('Content-Disposition: form-data; name="\udcff"', b"")),
        TABLE,
        "",
        400,
        "the name of part 0 of the form is not UTF-8",
    ),
    (*form(file(b"\r\n--b0x" * 5000)), PICTURE, "", 413, "the form has more than 101 parts"),
    (*form(field("age", "1"), field("age", "2")), TABLE, "", 400, "field 'age' is given twice"),
    (*form(*[field("age", "1")] * 104), TABLE, "", 413, "the form has more than 103 parts"),
    (*form(file(b"x"), field("age", "1")), TABLE, "", 400, "files and other fields"),
    (*form(file(b"x")), TABLE, "", 415, "takes no images"),
    (*form(*[file(b"x")] * 101), PICTURE, "", 413, "the form has 101 rows"),
    (*form(file(b"")), PICTURE, "", 400, "the image is empty"),
    (b"x" * 65, "application/octet-stream", PICTURE, "", 400, "body has 65 bytes; a row UINT8"),
    (b"", "application/octet-stream", PICTURE, "", 400, "body has 0 bytes"),
    (b"x" * 64, "application/octet-stream", TABLE, "", 415, "do not fit into one tensor"),
    (
        b"x" * 64,
        "application/octet-stream",
        PICTURE,
        "dtype=int",
        400,
        "dtype is 'int'; known dtypes: bool, uint8",
    ),
    (b"x" * 64, "application/octet-stream", PICTURE, "shape=1,a", 400, "shape is '1,a'"),
    (b"x" * 64, "application/octet-stream", PICTURE, "shape=0,8,8", 400, "shape is '0,8,8'"),
    (
        b"x" * 64,
        "application/octet-stream",
        PICTURE,
        "shape=1,8,9",
        400,
        "body has 64 bytes of data",
    ),
    (
        b"x" * 64,
        "application/octet-stream",
        PICTURE,
        "shape=1,4,4,4",
        400,
        r"body.shape is \[1, 4, 4, 4\], expected",
    ),
    (b"x" * 64, "application/octet-stream", PICTURE, "shape=" + "9" * 90, 413, "max_request_rows"),
    (b"x" * 6400 * 2, "application/octet-stream", PICTURE, "", 413, "body has 200 rows"),
]


@pytest.mark.parametrize(
    ("content", "kind", "interface", "query", "status", "message"),
    REFUSED,
    ids=[f"{index}-{case[4]}" for index, case in enumerate(REFUSED)],
)
def test_body_wrong_is_refused_with_status_and_message(
    content: bytes, kind: str, interface: Interface, query: str, status: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        inputs(content, kind, interface, query)
    assert refusal.value.status == status


@pytest.mark.parametrize(
    "body", [b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000, b"1" * 5000, b'{"a":NaN}', b"\0"]
)
def test_parse_json_hostile_text_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="the body is not JSON") as refusal:
        parse_json(body)
    assert refusal.value.status == 400


def test_parse_json_duplicate_key_takes_the_last() -> None:
    np.testing.assert_array_equal(
        inputs(b'[{"age": 1, "age": 41, "hours": 38.5, "job": "nurse"}]', "application/json"),
        offline([ROW]),
    )


# Images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        png(mode="P"),
        png(mode="1"),
        png(mode="LA"),
        png(mode="RGBA"),
        png(mode="I;16"),
        png(mode="CMYK", kind="JPEG"),
        png(mode="CMYK", kind="TIFF"),
        png(mode="I", kind="TIFF"),
        png(kind="GIF"),
        png(kind="GIF", save_all=True, append_images=[Pil.new("L", (8, 8), 9)]),
        png(kind="WEBP", mode="RGB"),
        png(kind="BMP", mode="RGB"),
        png(1, 1),
        png(1, 300),
    ],
)
def test_body_image_of_any_usual_mode_is_decoded(content: bytes) -> None:
    assert inputs(content, "image/*", PICTURE).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not an image of a known format"),
        (png()[:45], "not a readable image"),
        (png(64, 64, kind="JPEG")[:300], "[Tt]runcated"),
        (png(mode="F", kind="TIFF"), "more than 16 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image of a known format"),
        (png()[:16] + b"\0\0\0\0\0\0\0\0" + png()[24:], "not a readable image"),
        (b"GIF89a" + b"\0" * 20, "not a readable image"),
        (b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 100, "not a readable image"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_body_file_that_is_no_image_is_refused_by_place(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\[0\]\.image: .*{message}"):
        inputs(content, "image/*", PICTURE)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it has many pixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return png()[:8] + chunk + png()[33:]


def test_body_image_declaring_too_many_pixels_is_not_decoded() -> None:
    body = Body(bomb(5000, 4000), "image/png", "")
    with pytest.raises(
        TooManyPixelsError, match=r"rows\[0\].image: with this image there are 20000000 pixels"
    ):
        body.inputs(PICTURE, 10, 1_000_000)
    with pytest.raises(DataError, match="not a readable image"):
        Body(bomb(60_000, 60_000), "image/png", "").inputs(PICTURE, 10, None)


def test_body_pixels_of_all_images_count_together() -> None:
    content, kind = form(*[file(png(100, 100))] * 3)
    with pytest.raises(TooManyPixelsError, match=r"rows\[2\]"):
        Body(content, kind, "").inputs(PICTURE, 10, 29_999)
    assert Body(content, kind, "").inputs(PICTURE, 10, 30_000).shape == (3, 1, 8, 8)
    tiny, kind = form(*[file(png(1, 1))] * 3)
    with pytest.raises(TooManyPixelsError):
        Body(tiny, kind, "").inputs(PICTURE, 10, 3 * 64 - 1)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_a_mutilated_image_is_a_refusal_whatever_is_wrong_with_it() -> None:
    rng = np.random.default_rng(0)
    sources = [
        png(16, 16, kind=kind, mode="RGB")
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    ]
    num_refused = 0
    for source in sources:
        for _ in range(60):
            broken = bytearray(source)
            for position in rng.integers(0, len(broken), 4):
                broken[position] = rng.integers(256)
            try:
                Body(bytes(broken), "image/*", "").inputs(PICTURE, 10, 1_000_000)
            except DataError:
                num_refused += 1
    assert num_refused > 50


# Values that training always had -----------------------------------------------------------------

URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("content", "kind", "lacking"),
    [
        (b'[{"hours": 5}]', "application/json", "'age', 'job'"),
        (b'[{"age": 1, "job": null}]', "application/json", "'job'"),
        (b'[{"age": 1, "job": "?"}]', "application/json", "'job'"),
        (b"hours=5&age=1", URLENCODED, "'job'"),
        (b"hours=5&age=&job=cook", URLENCODED, "'age'"),
        (*form(field("hours", "5"), field("job", "")), "'age', 'job'"),
        (b"age,hours\n1,2\n", "text/csv", "'job'"),
        (b",2,\n", "text/csv", "'age', 'job'"),
        (*form(file(b"hours\n2\n", "text/csv")), "'age', 'job'"),
    ],
)
def test_body_without_a_value_that_training_always_had_is_refused(
    content: bytes, kind: str, lacking: str
) -> None:
    with pytest.raises(DataError, match=rf"rows\[0\] has no value for {lacking}\n"):
        inputs(content, kind, COMPLETE)
    # A model that does not record it fills it in, as before.
    optional = dataclasses.replace(COMPLETE.features, always_given=())
    assert inputs(content, kind, Interface(optional)).shape == (1, 5)


def test_body_may_lack_what_training_rows_lacked() -> None:
    content = b'[{"age": 1, "job": "cook"}, {"age": 1, "job": "cook", "hours": null}]'
    expected = offline([{"age": 1, "job": "cook"}] * 2)
    np.testing.assert_array_equal(inputs(content, "application/json", COMPLETE), expected)


def test_raw_tensor_with_nan_in_a_required_column_is_refused() -> None:
    rows = np.array([[np.nan, 1], [np.nan, np.nan]], dtype=np.float32)
    kind = "application/octet-stream"
    assert inputs(rows[:1].tobytes(), kind, COMPLETE_NUMBERS).shape == (1, 2)
    with pytest.raises(DataError, match=r"rows\[1\] has no value for 'b'\n"):
        inputs(rows.tobytes(), kind, COMPLETE_NUMBERS)
