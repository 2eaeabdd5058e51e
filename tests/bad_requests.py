"""Bad requests, each with its own fault and the status that it must get.

Unit tests send them through the routes; integration tests send them to replicas, which must
survive them.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import small_models
from PIL import Image

JSON = "application/json"
RAW = "application/octet-stream"
LENGTH = "inference-header-content-length"
# How deep lists may be nested depends on what parses them: 400 or 422.
ANY_4XX = 4
MAX_BYTES, MAX_ROWS, MAX_PIXELS = 256 * 1024, 50, 1024 * 1024
LIMITS = {
    "max_request_bytes": MAX_BYTES,
    "max_request_rows": MAX_ROWS,
    "max_request_pixels": MAX_PIXELS,
}


@dataclass(frozen=True)
class Bad:
    """A bad request to the model of tables or of pictures; `fault` is unique."""

    fault: str
    model: str
    path: str
    body: bytes
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"

    def is_refused_by(self, status: int) -> bool:
        return status in (400, 422) if self.status == ANY_4XX else status == self.status


def png(width: int = 8, height: int = 8, mode: str = "L", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format=kind)
    return buffer.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """A file of a few bytes that declares many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checked = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return png()[:8] + checked + png()[33:]


def _json(fault: str, model: str, value: Any, status: int, path: str = "/predict") -> Bad:
    return Bad(
        f"{path[1:8]} {fault}",
        model,
        path,
        json.dumps(value).encode(),
        status,
        {"content-type": JSON},
    )


def _texts() -> Iterator[Bad]:
    """Text that is not JSON, or is hostile JSON."""
    texts = {
        "nothing": b"",
        "a brace": b"{",
        "a bracket": b"[",
        "cut in a string": b'[{"age": "4',
        "cut in a number": b'[{"age": 4.',
        "cut after a key": b'[{"age"',
        "cut in an escape": b'[{"job": "\\u12',
        "two documents": b"[] []",
        "a comma too many": b'[{"age": 1,}]',
        "single quotes": b"[{'age': 1}]",
        "no quotes": b"[{age: 1}]",
        "a comment": b"[] // rows",
        "NaN": b'[{"age": NaN}]',
        "Infinity": b'[{"age": Infinity}]',
        "-Infinity": b'[{"age": -Infinity}]',
        "hexadecimal": b'[{"age": 0x10}]',
        "a leading zero": b'[{"age": 012}]',
        "a plus": b'[{"age": +1}]',
        "a bare point": b'[{"age": 1.}]',
        "a number of 400 digits": b'[{"age": ' + b"9" * 400 + b"}]",
        "a number of 5,000 digits": b'[{"age": ' + b"9" * 5000 + b"}]",
        "a number that is 1e999": b'[{"age": 1e999}]',
        "a byte order mark": b"\xef\xbb\xbf[]",
        "UTF-16": '[{"age": 1}]'.encode("utf-16"),
        "Latin-1": '[{"job": "Gärtner"}]'.encode("latin-1"),
        "half a pair of surrogates": b'[{"job": "\\ud800"}]',
        "a control character": b'[{"job": "a\nb"}]',
        "a zero byte": b"\0",
        "10,000 lists deep": b"[" * 10_000 + b"]" * 10_000,
        "10,000 objects deep": b'{"rows":' * 10_000 + b"1" + b"}" * 10_000,
        "10,000 lists that do not end": b"[" * 10_000,
        "a million spaces cut": b"[" + b" " * 200_000,
        "XML": b"<rows><row age='1'/></rows>",
        "YAML": b"rows:\n- age: 1\n",
        "a pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
        "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    }
    for levels in (250, 990, 1020):
        deep = b"[" * levels + b"1" + b"]" * levels
        for place, text in {
            "a number": b'[{"age": %s}]',
            "a category": b'[{"job": %s}]',
            "rows": b'{"rows": %s}',
            "the body": b"%s",
            "objects": b'[{"age": ' + b'{"a":' * levels + b"%s" + b"}" * levels + b"}]",
        }.items():
            yield Bad(
                f"{place} {levels} deep",
                "tables",
                "/predict",
                text % deep,
                ANY_4XX,
                {"content-type": JSON},
            )
        for key in ("name", "shape", "datatype", "data", "parameters"):
            tensor = {"name": "age", "shape": [1], "datatype": "FP64", "data": [1.0], key: "@"}
            text = json.dumps({"inputs": [tensor]}).encode().replace(b'"@"', deep)
            yield Bad(
                f"{key} {levels} deep",
                "tables",
                "/v2/models/small/infer",
                text,
                ANY_4XX,
                {"content-type": JSON},
            )
        text = b'{"id": %s, "inputs": [], "outputs": %s}' % (deep, deep)
        yield Bad(
            f"id {levels} deep",
            "tables",
            "/v2/models/small/infer",
            text,
            ANY_4XX,
            {"content-type": JSON},
        )
        text = b'[{"image": %s}]' % deep
        yield Bad(
            f"image {levels} deep", "pictures", "/predict", text, ANY_4XX, {"content-type": JSON}
        )
    for path in ("/predict", "/v2/models/small/infer"):
        for fault, text in texts.items():
            yield Bad(
                f"{path[1:8]} not JSON: {fault}", "tables", path, text, 400, {"content-type": JSON}
            )


def _rows() -> Iterator[Bad]:
    good = {"age": 41, "hours": 38.5, "job": "nurse"}
    for fault, value in {
        "null": None,
        "true": True,
        "a number": 3,
        "a string": "rows",
        "an empty object": {},
        "an empty list": [],
        "rows that are null": {"rows": None},
        "rows that are an object": {"rows": {}},
        "rows that are empty": {"rows": []},
        "a key and rows": {"rows": [good], "extra": 1},
        "a row as the body": good,
        "a list in a list": [[good]],
        "null among rows": [good, None],
        "a number among rows": [good, 7],
        "a string among rows": [good, "row"],
        "100 lists deep": json.loads("[" * 100 + "]" * 100),
    }.items():
        yield _json(fault, "tables", value, 400)
    for fault, row in {
        "an empty row": {},
        "an unknown column": {"agee": 1},
        "an unknown column and known ones": {**good, "salary": 1},
        "a column of another case": {"Age": 1},
        "a column without a name": {"": 1},
        "a column with a long name": {"a" * 10_000: 1},
        "only the target": {"answer": "yes"},
        "a number that is text": {**good, "age": "old"},
        "a number that is a long text": {**good, "age": "9" * 10_000 + "x"},
        "a number that is true": {**good, "age": True},
        "a number that is a list": {**good, "age": [1]},
        "a number that is an object": {**good, "age": {"value": 1}},
        "a number with an underscore": {**good, "age": "1_000"},
        "a number that is inf as text": {**good, "age": "inf"},
        "a number that float32 cannot hold": {**good, "age": 1e300},
        "a category that is a list": {**good, "job": ["nurse"]},
        "a category that is an object": {**good, "job": {}},
    }.items():
        yield _json(fault, "tables", [row], 422)
    yield _json("too many rows", "tables", [good] * (MAX_ROWS + 1), 413)
    yield _json("too many empty rows", "tables", [{}] * 10_000, 413)
    yield Bad(
        "too many bytes", "tables", "/predict", b" " * (MAX_BYTES + 1), 413, {"content-type": JSON}
    )


def _tensors() -> Iterator[Bad]:
    path = "/v2/models/small/infer"
    age = {"name": "age", "shape": [1], "datatype": "FP32", "data": [1]}
    hours, job = (
        {**age, "name": "hours"},
        {"name": "job", "shape": [1], "datatype": "BYTES", "data": ["cook"]},
    )
    whole = {"inputs": [age, hours, job]}

    def first(**fields: Any) -> Any:
        return {
            "inputs": [
                {name: value for name, value in {**age, **fields}.items() if value != "-"},
                hours,
                job,
            ]
        }

    for fault, value in {
        "a list": [],
        "null": None,
        "no inputs": {},
        "inputs that are null": {"inputs": None},
        "inputs that are empty": {"inputs": []},
        "inputs that are an object": {"inputs": {"age": 1}},
        "a tensor that is null": {"inputs": [None]},
        "a tensor that is a list": {"inputs": [[1]]},
        "a tensor less": {"inputs": [age, hours]},
        "a tensor twice": {"inputs": [age, age, hours, job]},
        "rows of another number": {"inputs": [age, {**hours, "shape": [2], "data": [1, 2]}, job]},
        "no name": first(name="-"),
        "no shape": first(shape="-"),
        "no datatype": first(datatype="-"),
        "no data": first(data="-"),
        "a name that is null": first(name=None),
        "a name that is a list": first(name=["age"]),
        "a name that is an object": first(name={}),
        "an unknown name": first(name="agee"),
        "a name of 10,000 letters": first(name="a" * 10_000),
        "a shape that is null": first(shape=None),
        "a shape that is a number": first(shape=1),
        "a shape that is empty": first(shape=[]),
        "a shape of no rows": first(shape=[0], data=[]),
        "a shape below zero": first(shape=[-1]),
        "a shape of text": first(shape=["1"]),
        "a shape of fractions": first(shape=[1.0]),
        "a shape of booleans": first(shape=[True]),
        "a shape that is nested": first(shape=[[1]]),
        "a shape of 1,000 dimensions": first(shape=[1] * 1000),
        "a shape that overflows": first(shape=[2**63]),
        "a shape whose product overflows": first(shape=[2**32, 2**32, 2**32]),
        "a shape of a different size": first(shape=[2]),
        "a shape of a matrix": first(shape=[1, 2], data=[1, 2]),
        "an unknown datatype": first(datatype="FP128"),
        "a datatype of small letters": first(datatype="fp32"),
        "a datatype that is null": first(datatype=None),
        "a datatype that is a list": first(datatype=["FP32"]),
        "data that is null": first(data=None),
        "data that is a number": first(data=1),
        "data that is text": first(data="1"),
        "data that is an object": first(data={}),
        "data that is empty": first(data=[]),
        "data of texts": first(data=["1"]),
        "data with one long text among numbers": first(data=["x" * 20000] + [1] * 20000),
        "data of null": first(data=[None]),
        "data of objects": first(data=[{}]),
        "data of booleans": first(data=[True]),
        "data that is ragged": first(shape=[3], data=[[1], [2, 3]]),
        "data that is 100 lists deep": first(data=json.loads("[" * 100 + "1" + "]" * 100)),
        "data with a number of 400 digits": first(data=[10**400]),
        "a UINT8 of 256": first(datatype="UINT8", data=[256]),
        "a UINT8 below zero": first(datatype="UINT8", data=[-1]),
        "an INT8 of 128": first(datatype="INT8", data=[128]),
        "an INT64 that is a fraction": first(datatype="INT64", data=[1.5]),
        "an INT64 of 2**63": first(datatype="INT64", data=[2**63]),
        "a UINT64 of 2**64": first(datatype="UINT64", data=[2**64]),
        "a BOOL of 2": first(datatype="BOOL", data=[2]),
        "BYTES of numbers": {"inputs": [age, hours, {**job, "data": [1]}]},
        "BYTES of null": {"inputs": [age, hours, {**job, "data": [None]}]},
        "BYTES in a matrix": {"inputs": [age, hours, {**job, "shape": [1, 2], "data": ["a", "b"]}]},
        "an id that is a number": {**whole, "id": 1},
        "an id that is a list": {**whole, "id": []},
        "parameters that are a list": {**whole, "parameters": []},
        "a wish that is not a boolean": {**whole, "parameters": {"binary_data_output": "yes"}},
        "outputs that are text": {**whole, "outputs": "scores"},
        "outputs that are null in a list": {**whole, "outputs": [None]},
        "an unknown output": {**whole, "outputs": [{"name": "logits"}]},
        "an output whose name is a list": {**whole, "outputs": [{"name": ["scores"]}]},
        "an output twice": {**whole, "outputs": [{"name": "label"}, {"name": "label"}]},
        "parameters of a tensor that are a list": first(parameters=[]),
        "binary data without the header": first(data="-", parameters={"binary_data_size": 4}),
        "shared memory": first(data="-", parameters={"shared_memory_region": "region"}),
    }.items():
        yield _json(fault, "tables", value, 400, path)
    for fault, value in {
        "a number that is text in BYTES": first(datatype="BYTES", data=["old"]),
        "an FP32 of 1e300": first(data=[1e300]),
        "an FP64 of 1e300": first(datatype="FP64", data=[1e300]),
    }.items():
        yield _json(fault, "tables", value, 422, path)
    many = [
        {**one, "shape": [MAX_ROWS + 1], "data": one["data"] * (MAX_ROWS + 1)}
        for one in (age, hours, job)
    ]
    yield _json("too many rows in tensors", "tables", {"inputs": many}, 413, path)


def _binary() -> Iterator[Bad]:
    path = "/v2/models/small/infer"

    def bad(
        fault: str,
        tensor: Any,
        blob: bytes,
        status: int = 400,
        length: str | None = None,
        **whole: Any,
    ) -> Bad:
        head = json.dumps({"inputs": [{"name": "image", **tensor}], **whole}).encode()
        headers = {"content-type": RAW, LENGTH: length or str(len(head))}
        return Bad(f"binary: {fault}", "pictures", path, head + blob, status, headers)

    def sized(num_bytes: Any, datatype: str = "UINT8", shape: Any = (1, 8, 8)) -> Any:
        return {
            "datatype": datatype,
            "shape": list(shape),
            "parameters": {"binary_data_size": num_bytes},
        }

    def text(content: bytes) -> bytes:
        return struct.pack("<I", len(content)) + content

    yield bad("a byte less than the shape needs", sized(63), bytes(63))
    yield bad("a byte more than the shape needs", sized(65), bytes(65))
    yield bad("a size beyond the body", sized(65), bytes(64))
    yield bad("a size of 2**62", sized(2**62), bytes(64))
    yield bad("a size below zero", sized(-64), bytes(64))
    yield bad("a size that is text", sized("64"), bytes(64))
    yield bad("a size that is a fraction", sized(64.0), bytes(64))
    yield bad("a size that is true", sized(True), bytes(64))
    yield bad("bytes behind the tensors", sized(64), bytes(70))
    yield bad("no bytes", sized(0), b"")
    yield bad("data and a size", {**sized(64), "data": [0] * 64}, bytes(64))
    yield bad("a wrong shape", sized(64, shape=(1, 4, 4, 4)), bytes(64))
    yield bad("a shape that overflows", sized(64, shape=(2**32, 2**32)), bytes(64))
    yield bad("a BOOL that is 2", sized(64, "BOOL"), bytes([2] * 64))
    yield bad("pixels that are NaN", sized(256, "FP32"), struct.pack("<f", float("nan")) * 64)
    yield bad("pixels that are infinite", sized(256, "FP32"), struct.pack("<f", float("inf")) * 64)
    yield bad("pixels that are fractions", sized(256, "FP32"), struct.pack("<f", 0.5) * 64)
    yield bad("pixels that are below zero", sized(64, "INT8"), bytes([255] * 64))
    yield bad("pixels of 256", sized(128, "UINT16"), struct.pack("<H", 256) * 64)
    yield bad("a text that is cut off", sized(7, "BYTES", (1,)), struct.pack("<I", 9) + b"abc")
    yield bad("a text of 4 GiB", sized(4, "BYTES", (1,)), b"\xff\xff\xff\xff")
    yield bad("a length that is cut off", sized(3, "BYTES", (1,)), b"\1\0\0")
    yield bad("a text too many", sized(10, "BYTES", (1,)), text(b"a") * 2)
    yield bad("a text too few", sized(5, "BYTES", (2,)), text(b"a"))
    yield bad("a text that is not an image", sized(9, "BYTES", (1,)), text(b"hello"), 422)
    yield bad("an empty text", sized(4, "BYTES", (1,)), text(b""), 422)
    yield bad(
        "too many rows",
        sized((MAX_ROWS + 1) * 64, shape=(MAX_ROWS + 1, 8, 8)),
        bytes((MAX_ROWS + 1) * 64),
        413,
    )
    for length in ("x", "-1", "1.5", "", "9" * 40, "100000", "3"):
        yield bad(
            f"a length of the JSON part of {length[:8]!r}", sized(64), bytes(64), 400, length or " "
        )
    raw = {"content-type": RAW, LENGTH: "0"}
    yield Bad("binary: raw pixels and a byte", "pictures", path, bytes(65), 400, raw)
    yield Bad("binary: raw and nothing", "pictures", path, b"", 400, raw)
    yield Bad("binary: raw to columns", "tables", path, bytes(64), 415, raw)
    yield Bad("binary: no length", "pictures", path, bytes(64), 415, {"content-type": RAW})


def _images() -> Iterator[Bad]:
    noise = bytes(range(256)) * 4
    files = {
        "nothing but noise": noise,
        "text": b"hello",
        "a PNG cut in its head": png()[:20],
        "a PNG cut in its data": png(64, 64)[:60],
        "a JPEG cut in its data": png(300, 300, kind="JPEG")[:700],
        "a GIF without pictures": b"GIF89a\x08\0\x08\0\0\0\0;",
        "a PNG without pixels": png_that_says(0, 0),
        "a PNG of a wrong checksum": png()[:20] + b"\xff" + png()[21:],
        "a PNG whose data is noise": png()[:41] + noise + png()[-12:],
        "a TIFF that points outside": b"II*\0\xff\xff\xff\x7f",
        "a TIFF of noise": b"II*\0\x08\0\0\0" + noise,
        "a BMP of noise": b"BM" + noise,
        "a WEBP of noise": b"RIFF\xff\xff\0\0WEBPVP8 " + noise,
        "a TIFF of floats": png(mode="F", kind="TIFF"),
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a PDF": b"%PDF-1.4\n",
        "a ZIP": b"PK\x03\x04" + noise,
    }
    for fault, file in files.items():
        yield Bad(
            f"image: {fault}", "pictures", "/predict", file, 422, {"content-type": "image/png"}
        )
        yield _json(
            f"image in a row: {fault}",
            "pictures",
            [{"image": base64.b64encode(file).decode()}],
            422,
        )
    for fault, file in {
        "says that it has 20 million pixels": png_that_says(5000, 4000),
        "has more pixels than may be": png(1100, 1000),
        "has more columns than may be": png_that_says(MAX_PIXELS + 1, 1),
    }.items():
        yield Bad(
            f"image: {fault}", "pictures", "/predict", file, 413, {"content-type": "image/png"}
        )
    said = png_that_says(2**31 - 1, 2**31 - 1)
    yield Bad(
        "image: says that it has 2**62 pixels",
        "pictures",
        "/predict",
        said,
        422,
        {"content-type": "image/png"},
    )
    yield Bad("image: nothing", "pictures", "/predict", b"", 400, {"content-type": "image/jpeg"})
    yield Bad(
        "image: to a model of tables",
        "tables",
        "/predict",
        png(),
        415,
        {"content-type": "image/png"},
    )
    two = [{"image": base64.b64encode(png(800, 800)).decode()}] * 2
    yield _json("images with too many pixels together", "pictures", two, 413)
    for fault, value in {
        "no image": None,
        "an empty text": "",
        "a text that is not base64": "%%%",
        "a text that is half of base64": "abc",
        "a number": 3,
        "true": True,
        "an object": {},
        "an empty list": [],
        "a list of numbers": [1, 2, 3],
        "rows that differ in length": [[1, 2], [3]],
        "pixels of text": [["a", "b"], ["c", "d"]],
        "pixels of null": [[None]],
        "pixels with one long text among them": [["x" * 20000] + [1] * 20000],
        "pixels of 256": [[256]],
        "pixels below zero": [[-1]],
        "pixels that are fractions": [[0.5]],
        "pixels of 300 digits": [[10**300]],
        "two channels": [[[1, 2]]],
        "100 lists deep": json.loads("[" * 100 + "1" + "]" * 100),
    }.items():
        yield _json(f"image that is {fault}", "pictures", [{"image": value}], 422)


def _forms() -> Iterator[Bad]:
    form = "multipart/form-data; boundary=b0"

    def part(head: str, content: bytes = b"1") -> bytes:
        return f"--b0\r\n{head}\r\n\r\n".encode() + content + b"\r\n"

    field, end = 'Content-Disposition: form-data; name="age"', b"--b0--\r\n"
    for fault, body, status in (
        ("nothing", b"", 400),
        ("no end", part(field), 400),
        ("no parts", end, 422),
        ("no head", b"--b0\r\n\r\n1\r\n" + end, 400),
        ("a head of 100 kB", part(field + ";" * 100_000) + end, 400),
        ("a part without a name", part("Content-Disposition: form-data") + end, 400),
        ("a field twice", part(field) * 2 + end, 400),
        ("a field that is not UTF-8", part(field, b"\xff") + end, 400),
        ("1,000 fields", part(field) * 1000 + end, 413),
        ("a file to a model of tables", part(field + '; filename="a"') + end, 415),
        ("an unknown field", part(field.replace("age", "agee")) + end, 422),
    ):
        yield Bad(f"form: {fault}", "tables", "/predict", body, status, {"content-type": form})
    yield Bad(
        "form: no boundary", "tables", "/predict", end, 400, {"content-type": "multipart/form-data"}
    )
    file = part('Content-Disposition: form-data; name="f"; filename="a"', png())
    for fault, body, status in (
        (
            "an empty file",
            part('Content-Disposition: form-data; name="f"; filename="a"', b"") + end,
            400,
        ),
        (
            "a file that is not an image",
            part('Content-Disposition: form-data; name="f"; filename="a"', b"hello") + end,
            422,
        ),
        ("a field and a file", file + part(field) + end, 400),
        ("too many files", file * (MAX_ROWS + 1) + end, 413),
    ):
        yield Bad(f"form: {fault}", "pictures", "/predict", body, status, {"content-type": form})
    for fault, body, status in (
        ("no equals sign", b"age", 400),
        ("an escape that is not UTF-8", b"age=%ff", 400),
        ("a field twice", b"age=1&age=2", 400),
        ("10,000 fields", b"age=1&" * 10_000, 400),
        ("bytes", b"\xff\xfe", 400),
    ):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        yield Bad(f"url-encoded: {fault}", "tables", "/predict", body, status, headers)
    for fault, body, status in (
        ("nothing", b"", 400),
        ("names only", b"age,hours,job\n", 400),
        ("a cell less", b"1,2\n", 400),
        ("a column twice", b"age,age\n1,2\n", 400),
        ("an unknown column", b"age,salary\n1,2\n", 422),
        ("a quote that does not end", b'1,2,"x\n', 400),
        ("bytes", b"1,2,\xff\n", 400),
        ("a cell of 200 kB", b"1,2," + b"x" * 200_000, 400),
        ("too many lines", b"1,2,x\n" * (MAX_ROWS + 1), 413),
        ("a number that is none", b"old,2,x\n", 422),
    ):
        yield Bad(f"CSV: {fault}", "tables", "/predict", body, status, {"content-type": "text/csv"})
    for query, status in (
        ("dtype=float", 400),
        ("dtype=BYTES", 400),
        ("dtype=object", 400),
        ("shape=1,8,9", 400),
        ("shape=-1,8,8", 400),
        ("shape=a", 400),
        ("shape=1,4,4,4", 400),
        ("shape=64,1,1", 413),
        ("shape=" + "9" * 60, 413),
        ("dtype=float64", 400),
    ):
        yield Bad(
            f"raw: {query[:16]}",
            "pictures",
            f"/predict?{query}",
            bytes(64),
            status,
            {"content-type": RAW},
        )
    yield Bad("raw: to columns", "tables", "/predict", bytes(64), 415, {"content-type": RAW})


def _elsewhere() -> Iterator[Bad]:
    good = b'[{"age": 41}]'
    for kind in (
        "text/plain",
        "text/html",
        "application/xml",
        "application/x-www",
        "video/mp4",
        "*/*",
        "json",
        "\xff",
    ):
        yield Bad(f"content-type {kind!r}", "tables", "/predict", good, 415, {"content-type": kind})
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
        headers = {"content-type": JSON, "content-encoding": encoding}
        yield Bad(f"content-encoding {encoding}", "tables", "/predict", good, 415, headers)
    for path in (
        "/predic",
        "/predict/x",
        "/v1/models/small:predict",
        "/v2/models",
        "/v2/models/small/weights",
        "/.env",
    ):
        yield Bad(f"path {path}", "tables", path, good, 404, {"content-type": JSON})
    for path in (
        "/v2/models/large/infer",
        "/v2/models/small/versions/9/infer",
        "/v2/models/small/versions/x/infer",
    ):
        yield Bad(f"path {path}", "tables", path, good, 404, {"content-type": JSON})
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        yield Bad(f"{method} /predict", "tables", "/predict", b"", 405, {}, method)
    for path in (
        "/v2",
        "/healthz",
        "/v2/health/ready",
        "/v2/models/small",
        "/docs",
        "/openapi.json",
    ):
        yield Bad(f"POST {path}", "tables", path, good, 405, {"content-type": JSON})


ALL: list[Bad] = [
    *_texts(),
    *_rows(),
    *_tensors(),
    *_binary(),
    *_images(),
    *_forms(),
    *_elsewhere(),
]


def good(model: str) -> bytes:
    """A good body for `/predict`."""
    rows = small_models.table_rows(1) if model == "tables" else small_models.picture_rows(1)
    return json.dumps(rows).encode()
