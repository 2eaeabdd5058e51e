"""Forms: parts of a multipart body, and limits that hold before a part is kept."""

from __future__ import annotations

import logging

import pytest

from raydc.serve.protocol.forms import FormPart, parse_multipart
from raydc.serve.protocol.interface import RequestError

CONTENT_TYPE = "multipart/form-data; boundary=b0"
FILE = 'Content-Disposition: form-data; name="image"; filename="x.png"\r\nContent-Type: image/PNG'
FIELD = 'content-disposition: FORM-DATA; name="größe"'


def body(*parts: tuple[str, bytes], end: bytes = b"--b0--\r\n") -> bytes:
    """A multipart body; a part is its header lines and its content."""
    return (
        b"".join(f"--b0\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts) + end
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n\r\n--b1\r\n\n\r--b\0\xff",
        b"\r\n--b0x",
        b"\r\n--b0-x\r\n--b0-\r\n--b",
        b"\r\n--b0\n\r\n--b0\r-\r\n--",
        b"\r\n",
        b"",
    ],
)
def test_multipart_file_with_text_like_a_delimiter_is_kept(content: bytes) -> None:
    """A delimiter is a whole line: RFC 2046, 5.1.1."""
    parts = parse_multipart(body((FILE, content), (FILE, b"second")), CONTENT_TYPE, 10)
    assert [part.content for part in parts] == [content, b"second"]


def test_multipart_parts_have_name_kind_and_media_type() -> None:
    found = parse_multipart(
        body((FILE, b"1"), (FIELD, b"2"), end=b"--b0--\r\nepilogue"), CONTENT_TYPE, 2
    )
    assert found == [
        FormPart("image", b"1", is_file=True, media_type="image/png"),
        FormPart("größe", b"2", is_file=False, media_type=""),
    ]


@pytest.mark.parametrize("end", [b"", b"--b0", b"--b0-", b"--b0\r\n"])
def test_multipart_cut_off_is_refused(end: bytes) -> None:
    with pytest.raises(RequestError, match="the form is cut off") as refusal:
        parse_multipart(body((FILE, b"1"), end=end), CONTENT_TYPE, 10)
    assert refusal.value.status == 400


def test_multipart_too_many_parts_is_refused() -> None:
    parts = [(FIELD, b"")] * 4
    assert len(parse_multipart(body(*parts), CONTENT_TYPE, 4)) == 4
    with pytest.raises(RequestError, match="more than 3 parts") as refusal:
        parse_multipart(body(*parts), CONTENT_TYPE, 3)
    assert refusal.value.status == 413


def test_multipart_broken_form_writes_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Anybody could fill the log of a replica otherwise."""
    with caplog.at_level(logging.DEBUG), pytest.raises(RequestError):
        parse_multipart(b"--b0x\r\n\r\n", CONTENT_TYPE, 10)
    assert caplog.records == []
