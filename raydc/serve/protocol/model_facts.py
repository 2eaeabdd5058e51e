"""What a model says of itself in its metadata, beside names and shapes: facts for the page and for other clients.

Pixel suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.bundle import Bundle
from raydc.features import Column, Image, Numeric
from raydc.spec.model import Builder

# Grey levels from the ground on which a pixel counts as ink, and the part of the border that must be ground.
_INK_LEVELS = 64
_LEAST_GROUND = 0.7
# Whole numbers up to here are what they seem; JSON has no larger ones for all its readers.
_MOST_EXACT = 2**53


def of_model(bundle: Bundle, source: dict[str, Any]) -> dict[str, Any]:
    """Facts for `parameters` of a model's metadata.

    Args:
        bundle: The model.
        source: Where the version came from (`Registry.source`).

    Returns:
        JSON values: target, network, num_weights, run, step, created (ISO 8601, UTC) and held_out, the numbers of its
        evaluation; what is not known is left out.
    """
    section = bundle.spec.model
    known = {
        "target": bundle.features.target,
        "network": section.builder if isinstance(section, Builder) else section.name,
        "num_weights": sum(weights.numel() for weights in bundle.model.parameters()),
        "run": bundle.facts.get("run"),
        "step": bundle.facts.get("step"),
        "created": _utc(source.get("time_s")),
        "held_out": _numbers(source.get("metrics")),
    }
    return {name: value for name, value in known.items() if value not in (None, {})}


def of_inputs(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Facts for `parameters` of each input, by column.

    Returns:
        Of a number `typical`, near the mean; of an image `height`, `width`, `channels` and, where images are
        drawings, `ink` (see `ink_of`).
    """
    return {name: _of_column(column, bundle) for name, column in bundle.features.columns.items()}


def _of_column(column: Column, bundle: Bundle) -> dict[str, Any]:
    if isinstance(column, Numeric):
        return {"typical": _rounded(column.mean, column.scale)}
    if not isinstance(column, Image):
        return {}
    size: dict[str, Any] = {
        "height": column.height,
        "width": column.width,
        "channels": column.channels,
    }
    ink = ink_of(column, bundle.golden_inputs)
    return size if ink is None else {**size, "ink": ink}


def ink_of(column: Image, images_BCHW: npt.NDArray[np.uint8] | None) -> dict[str, Any] | None:
    """How drawings look to a model, from examples; None where they are no drawings: grey, on one even ground.

    Returns:
        `ground`, 0 or 255; `level`, the mean of the ink, 0 to 255; `extent`, the part of the image's height or width
        that ink takes, whichever is more: 1.0 of digits that touch the border, 0.71 of MNIST.
    """
    if column.channels != 1 or images_BCHW is None:
        return None
    images_BHW = images_BCHW[:, 0].astype(np.int64)
    border = np.concatenate([images_BHW[:, [0, -1]].ravel(), images_BHW[:, :, [0, -1]].ravel()])
    ground = 0 if np.median(border) < 128 else 255
    if (np.abs(border - ground) < _INK_LEVELS).mean() < _LEAST_GROUND:
        return None
    is_ink_BHW = np.abs(images_BHW - ground) >= _INK_LEVELS
    extents = [_extent(is_ink_HW) for is_ink_HW in is_ink_BHW if is_ink_HW.any()]
    if not extents:
        return None
    level = round(float(images_BHW[is_ink_BHW].mean()))
    return {"ground": ground, "level": level, "extent": round(float(np.mean(extents)), 3)}


def _extent(is_ink_HW: npt.NDArray[np.bool_]) -> float:
    parts: list[float] = []
    for axis in (0, 1):
        lines = np.flatnonzero(is_ink_HW.any(axis=1 - axis))
        parts.append(float(lines[-1] - lines[0] + 1) / is_ink_HW.shape[axis])
    return max(parts)


def _rounded(mean: float, scale: float) -> float | int:
    """A mean as a person would type it: to a power of ten between a hundredth and a tenth of the spread."""
    digits = 2 - math.ceil(math.log10(scale)) if scale > 0 else 2
    rounded = round(mean, digits)
    return int(rounded) if rounded.is_integer() and abs(rounded) < _MOST_EXACT else rounded


def _numbers(metrics: Any) -> dict[str, float]:
    """The numbers among metrics; tables by class are left out."""
    return {
        name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)
    }


def _utc(time_s: float | None) -> str | None:
    if time_s is None:
        return None
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat(timespec="seconds")
