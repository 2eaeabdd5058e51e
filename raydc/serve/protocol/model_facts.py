"""Facts of a model for its metadata, beyond names and shapes of tensors. Runs in the replica.

The page shows them: origin, evaluation, size, a typical value per column, how drawings look.

Pixel suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import datetime
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.bundle import Bundle
from raydc.features import Column, DateParts, Image, Numeric, Record, SeriesWindow
from raydc.spec.model import Builder

# Distance in grey levels from the background from which a pixel counts as ink.
_MIN_INK_LEVELS = 64
# A drawing leaves this fraction of its border free; photographs do not.
_MIN_BACKGROUND_FRACTION = 0.7
# Integers up to here are exact in a double, which is all that JSON numbers are to most clients.
_MAX_EXACT_INTEGER = 2**53


def describe_model(bundle: Bundle, source: dict[str, Any]) -> dict[str, Any]:
    """Collects facts for `parameters` of a model's metadata.

    Args:
        bundle: Loaded model, for its spec, its facts and the size of its network.
        source: Origin of the version, as `Registry.source` returns it.

    Returns:
        JSON values: target, network, num_weights, run, step, created (ISO 8601, UTC), threshold
        (how it is chosen between two classes) and held_out (numbers of the evaluation). Unknown
        ones are left out.
    """
    section = bundle.spec.model
    facts = {
        "target": bundle.features.target,
        "network": section.builder if isinstance(section, Builder) else section.name,
        "num_weights": sum(weights.numel() for weights in bundle.model.parameters()),
        "run": bundle.facts.get("run"),
        "step": bundle.facts.get("step"),
        "created": _format_utc(source.get("time_s")),
        "threshold": bundle.facts.get("threshold"),
        "held_out": _only_numbers(source.get("metrics")),
    }
    return {name: value for name, value in facts.items() if value not in (None, {})}


def describe_inputs(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Collects facts for `parameters` of each input, by column.

    Returns:
        For a number or a date `typical`, near the mean; for past steps a list of them as JSON. For
        an image `height`, `width`, `channels` and, if the images are drawings, `ink` as
        `measure_ink` returns it.
    """
    return {
        name: _describe_column(column, bundle) for name, column in bundle.features.columns.items()
    }


def _describe_column(column: Column, bundle: Bundle) -> dict[str, Any]:
    if isinstance(column, Numeric):
        # The divisor of a curve is not in units of the column.
        is_curve = column.is_log or column.quantiles
        spread = abs(column.mean) if is_curve else column.scale
        return {"typical": _round_to_spread(column.mean, spread)}
    if isinstance(column, DateParts):
        return {"typical": column.typical}
    if isinstance(column, SeriesWindow):
        means = [_round_to_spread(*one) for one in zip(column.shifts, column.scales, strict=True)]
        step = means[0] if len(means) == 1 else means
        return {"typical": json.dumps([step] * column.length)}
    if not isinstance(column, Image):
        return {}
    size: dict[str, Any] = {
        "height": column.height,
        "width": column.width,
        "channels": column.channels,
    }
    inputs = bundle.golden_inputs
    ink = None if isinstance(inputs, Record) else measure_ink(column, inputs)
    return size if ink is None else {**size, "ink": ink}


def measure_ink(column: Image, images_BCHW: npt.NDArray[np.uint8] | None) -> dict[str, Any] | None:
    """Measures how drawings look to a model, so that the page can draw the same way.

    Returns:
        `ground`, the background, 0 or 255; `level`, the mean of the ink, 0 to 255; `extent`, the
        fraction of the image's height or width that ink covers, whichever is larger: 1.0 if digits
        touch the border, 0.71 for MNIST. None if the images are not drawings, that is, not grey on
        an even background.
    """
    if column.channels != 1 or images_BCHW is None:
        return None
    # Signed, so that differences of pixels do not wrap.
    images_BHW = images_BCHW[:, 0].astype(np.int64)
    border = np.concatenate([images_BHW[:, [0, -1]].ravel(), images_BHW[:, :, [0, -1]].ravel()])
    ground = 0 if np.median(border) < 128 else 255
    if (np.abs(border - ground) < _MIN_INK_LEVELS).mean() < _MIN_BACKGROUND_FRACTION:
        return None
    is_ink_BHW = np.abs(images_BHW - ground) >= _MIN_INK_LEVELS
    extents = [_ink_extent(is_ink_HW) for is_ink_HW in is_ink_BHW if is_ink_HW.any()]
    if not extents:
        return None
    level = round(float(images_BHW[is_ink_BHW].mean()))
    return {"ground": ground, "level": level, "extent": round(float(np.mean(extents)), 3)}


def _ink_extent(is_ink_HW: npt.NDArray[np.bool_]) -> float:
    """Fraction of the height or width that ink covers, whichever is larger."""
    fractions: list[float] = []
    for axis in (0, 1):
        lines = np.flatnonzero(is_ink_HW.any(axis=1 - axis))
        fractions.append(float(lines[-1] - lines[0] + 1) / is_ink_HW.shape[axis])
    return max(fractions)


def _round_to_spread(mean: float, scale: float) -> float | int:
    """Rounds a mean as a person would type it: to between 1/100 and 1/10 of the spread."""
    digits = 2 - math.ceil(math.log10(scale)) if scale > 0 else 2
    rounded = round(mean, digits)
    is_exact = rounded.is_integer() and abs(rounded) < _MAX_EXACT_INTEGER
    return int(rounded) if is_exact else rounded


def _only_numbers(metrics: Any) -> dict[str, float]:
    """Numbers among the metrics; tables by class are left out."""
    return {
        name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)
    }


def _format_utc(time_s: float | None) -> str | None:
    if time_s is None:
        return None
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat(timespec="seconds")
