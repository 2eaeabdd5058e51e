"""Fitted features of a table, a price and grey images, which the tests here share."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as PilImage

from raydc.features import Categorical, Features, Image, Numeric, Signature

MIXED = Features(
    Signature("vector", (5,), "float32", (), (), "classification", ("no", "yes")),
    "bought",
    {
        "age": Numeric(mean=40.0, shift=40.0, scale=10.0),
        "city": Categorical(("Rome", "Oslo"), has_other=True, has_missing=True),
    },
    ignored=("id",),
    missing_values=("", "?"),
)
# No training row lacked an age or a city.
COMPLETE = replace(MIXED, always_given=("age", "city"))
PRICE = Features(
    Signature("vector", (1,), "float32", (), (), "regression"),
    "price",
    {"size": Numeric(0.0, 0.0, 1.0)},
    target_mean=100.0,
    target_scale=20.0,
)
GREY = Features(
    Signature("image", (1, 4, 6), "uint8", (10.0,), (2.0,), "classification", ("a", "b")),
    "label",
    {"image": Image(4, 6, 1)},
)


def make_png(pixels: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    """Encodes pixels as a file.

    Args:
        pixels: [H, W] or [H, W, 3], cast to uint8.
        mode: Mode of PIL to convert to; None keeps the mode of the pixels.
        kind: Format of the file.
    """
    buffer = io.BytesIO()
    image = PilImage.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(buffer, format=kind)
    return buffer.getvalue()
