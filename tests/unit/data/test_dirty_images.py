"""Broken and dirty images, and tar files of them: each is named, or taken as said."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dirty import DROP, LABEL, LFS_POINTER, NO_IMAGE, NUM_ROWS, Dirty, check, table
from PIL import Image

_LABELS = [("no", "yes")[n % 2] for n in range(1, NUM_ROWS + 1)]


def _image(
    mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (8, 8), **save: Any
) -> bytes:
    buffer = io.BytesIO()
    numbers = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(numbers).convert(mode).save(buffer, kind, **save)
    return buffer.getvalue()


def _folder(odd: dict[str, bytes]) -> dict[str, bytes]:
    """Classes a and b, with 12 pictures each, and odd files besides."""
    good = {f"{'ab'[n % 2]}/{n:02}.png": _image() for n in range(NUM_ROWS)}
    return good | odd


def _gif() -> bytes:
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def _deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8001, dtype=np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _image("RGB", "JPEG", (8, 4), exif=exif)


def _pixels(png: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def _tar(members: Sequence[tuple[Any, bytes]], cut: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    return content[: len(content) - cut]


def _samples(start: int = 1) -> list[tuple[Any, bytes]]:
    return [
        member
        for n in range(start, NUM_ROWS + 1)
        for member in ((f"{n:02}.png", _image()), (f"{n:02}.cls", _LABELS[n - 1].encode()))
    ]


def _link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("99.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


IMAGES = [
    Dirty(
        "JPEG cut off",
        _folder({"a/x.jpg": _image("RGB", "JPEG", (64, 64))[:-300]}),
        LABEL,
        refused=r"^FOLDER/a/x\.jpg: not a readable image: .*truncated",
    ),
    Dirty(
        "PNG cut off",
        _folder({"a/x.png": _image(size=(64, 64))[:-300]}),
        LABEL,
        refused=r"^FOLDER/a/x\.png: not a readable image: ",
    ),
    Dirty(
        "no bytes",
        _folder({"a/x.png": b""}),
        LABEL,
        refused=r"^FOLDER/a/x\.png: the file is empty\n.*Remove",
    ),
    Dirty(
        "text under the name",
        _folder({"a/x.png": b"hello", "b/y.png": b""}),
        {**LABEL, **DROP},
        num_rows=NUM_ROWS,
        left_out={
            NO_IMAGE: 1,
            "image: the file is empty": 1,
        },
    ),
    Dirty(
        "pointer of Git LFS",
        _folder({"a/x.png": LFS_POINTER}),
        LABEL,
        refused=r"^FOLDER/a/x\.png: .*Git LFS",
    ),
    Dirty(
        "JPEG under the name of a PNG",
        _folder({"a/x.png": _image("RGB", "JPEG")}),
        LABEL,
        num_rows=NUM_ROWS + 1,
    ),
    Dirty(
        "CMYK",
        _folder({"a/x.jpg": _image("CMYK", "JPEG")}),
        LABEL,
        num_rows=NUM_ROWS + 1,
        rows={12001: {"image": lambda png: _pixels(png).shape == (8, 8, 3)}},
    ),
    Dirty(
        "16 bits",
        _folder({"a/x.png": _deep()}),
        LABEL,
        num_rows=NUM_ROWS + 1,
        rows={12001: {"image": lambda png: (_pixels(png) == 0x80).all()}},
    ),
    Dirty(
        "animation",
        _folder({"a/x.gif": _gif()}),
        LABEL,
        num_rows=NUM_ROWS + 1,
        rows={12001: {"image": lambda png: (_pixels(png) == (255, 0, 0)).all()}},
    ),
    Dirty(
        "turned photograph",
        _folder({"a/x.jpg": _turned()}),
        LABEL,
        refused=r"images differ in size: .* is 8x8, but FOLDER/a/x\.jpg is 8x4",
    ),
]

TARS = [
    Dirty(
        "cut off",
        {"r.tar": _tar(_samples(), cut=12_000)},
        LABEL,
        refused=r"^FOLDER/r\.tar cannot be read: .*\n.*cut off",
    ),
    Dirty(
        "names that leave the folder",
        {
            "r.tar": _tar(
                [
                    ("../../x.png", _image()),
                    ("../../x.cls", b"no"),
                    ("/etc/y.png", _image()),
                    ("/etc/y.cls", b"yes"),
                    *_samples(3),
                ]
            )
        },
        LABEL,
    ),
    Dirty("links", {"r.tar": _tar([(_link(), b""), *_samples()])}, LABEL),
    Dirty(
        "sample in two places",
        {"r.tar": _tar([*_samples(), ("01.json", b"{}")])},
        LABEL,
        refused=r"^FOLDER/r\.tar: the files of 01 are in two places\n.*neighbours",
    ),
    Dirty(
        "name twice",
        {
            "r.tar": _tar(
                [("01.png", _image()), ("01.cls", b"no"), ("01.cls", b"yes"), *_samples(2)]
            )
        },
        LABEL,
        refused=r"^FOLDER/r\.tar: 01\.cls: .*label.* twice",
    ),
    Dirty(
        "sample without a label",
        {"r.tar": _tar([("00.png", _image()), *_samples()])},
        LABEL,
        refused=r"^FOLDER/r\.tar: sample 1: label: the target is missing",
    ),
    Dirty(
        "image that is none",
        {"r.tar": _tar([*_samples()[:-2], ("24.png", b"hello"), ("24.cls", b"no")])},
        LABEL,
        refused=r"^FOLDER/r\.tar: sample 24: image: not a readable image",
    ),
    Dirty(
        "image that is none, dropped",
        {"r.tar": _tar([*_samples()[:-2], ("24.png", b"hello"), ("24.cls", b"no")])},
        {**LABEL, **DROP},
        num_rows=NUM_ROWS - 1,
        left_out={NO_IMAGE: 1},
    ),
]


@table(IMAGES)
def test_image_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)


@table(TARS)
def test_tar_file_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)
