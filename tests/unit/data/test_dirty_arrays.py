"""Broken and dirty NumPy and IDX files: each is named, or taken as said."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from dirty import HUGE_ARRAY, LABEL, NUM_ROWS, Dirty, check, table

_LABELS = [("no", "yes")[n % 2] for n in range(1, NUM_ROWS + 1)]


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"a": np.arange(1, NUM_ROWS + 1), "y": np.array(_LABELS), **arrays})
    return buffer.getvalue()


def _idx(images: int = NUM_ROWS, labels: int = NUM_ROWS) -> dict[str, bytes]:
    pixels = bytes(range(4)) * images
    return {
        "train-images-idx3-ubyte": struct.pack(">4i", 0x803, images, 2, 2) + pixels,
        "train-labels-idx1-ubyte": struct.pack(">2i", 0x801, labels)
        + bytes(n % 2 for n in range(1, labels + 1)),
    }


ARRAYS = [
    Dirty(
        "array cut off",
        {"r.npy": _npy(np.ones((NUM_ROWS, 2)))[:-9]},
        refused=r"^FOLDER/r\.npy cannot be read: ",
    ),
    Dirty(
        "header of a billion numbers",
        {"r.npy": HUGE_ARRAY},
        refused=r"^FOLDER/r\.npy cannot be read: .*\n.*cut off",
    ),
    Dirty(
        "objects",
        {"r.npy": _npy(np.array([{}, 1], dtype=object))},
        refused=r"^FOLDER/r\.npy cannot be read: .*\n.*could run code",
    ),
    Dirty(
        "archive cut off", {"r.npz": _npz()[:-30]}, refused=r"^FOLDER/r\.npz cannot be read: .*zip"
    ),
    Dirty(
        "arrays of different lengths",
        {"r.npz": _npz(z=np.ones(3))},
        refused=r"^FOLDER/r\.npz: the arrays differ in their number of rows: .* 'z' has 3",
    ),
    Dirty(
        "bytes of another machine",
        {"r.npz": _npz(z=np.arange(NUM_ROWS, dtype=">f4"), i=np.arange(NUM_ROWS, dtype=">i2"))},
        rows={3: {"z": 2, "i": 2}},
    ),
    Dirty(
        "texts as bytes",
        {"r.npz": _npz(b=np.array([b"u", b"v"] * 12), y=np.array(_LABELS).astype("S"))},
        rows={3: {"b": "u"}},
        classes=("no", "yes"),
    ),
    Dirty(
        "complex numbers",
        {"r.npz": _npz(z=np.ones(NUM_ROWS, dtype=complex))},
        refused=r"^FOLDER/r\.npz: z: complex128 is not a type that",
    ),
    Dirty(
        "truths, times and half floats",
        {
            "r.npz": _npz(
                t=np.arange(NUM_ROWS) % 2 == 0,
                w=np.arange(NUM_ROWS).astype("datetime64[D]"),
                h=np.arange(NUM_ROWS, dtype=np.float16),
            )
        },
        rows={3: {"t": "true", "w": 172800, "h": 2}},
    ),
    Dirty(
        "images and labels of IDX swapped",
        {
            name.translate(str.maketrans({"3": "1", "1": "3"}))
            .replace("images", "X")
            .replace("labels", "images")
            .replace("X", "labels"): content
            for name, content in _idx().items()
        },
        LABEL,
        refused=r"^FOLDER/train-images-idx3-ubyte: magic number 0x00000801 .*\n.*swapped",
    ),
    Dirty(
        "IDX cut off",
        {name: content[:-1] if "images" in name else content for name, content in _idx().items()},
        LABEL,
        refused=r"^FOLDER/train-images-idx3-ubyte: the header says .*, 96 bytes, but 95 follow",
    ),
    Dirty(
        "IDX with more labels than images",
        _idx(labels=NUM_ROWS + 1),
        LABEL,
        refused=r"^FOLDER/train-images-idx3-ubyte: 24 images, but 25 labels in FOLDER/train-labels",
    ),
]


@table(ARRAYS)
def test_array_is_named_or_taken(case: Dirty, tmp_path: Path) -> None:
    check(case, tmp_path)
