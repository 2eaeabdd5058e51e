"""Features fitted on the training rows: exact partial sums of blocks, and what they add up to.

Every partial is a small JSON value of whole numbers, counts and first places; adding them rounds nothing, so the
features are the same however the rows were cut into blocks. The one rounding is at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, TRAIN, Cleaner, Splits
from raydc.data.moments import SHIFT, exact_moments
from raydc.data.shards import SPLITS
from raydc.data.sources import Layout
from raydc.errors import DataError
from raydc.features import Categorical, Column, Features, Image, Numeric, Signature
from raydc.spec.sections import Data

Partial = dict[str, Any]
_LEAST_CLASSES_TO_DOUBT = 100


def partial(table: pa.Table, cleaner: Cleaner) -> Partial:
    """What one block adds.

    Returns:
        `rows` of train, validation and test, how many are `dropped`, `labels` of each split, and `inputs`: sums and
        counts over the training rows. The target of a regression is one of them.
    """
    splits, ids = cleaner.splits(table), values.row_ids(table)
    training = table.filter(pa.array(splits == TRAIN))
    kinds, labels = dict(cleaner.kinds), {}
    if cleaner.data.task == "regression":
        kinds[cleaner.data.target] = "numeric"
    else:
        labels = _labels(values.texts(values.column_of(table, cleaner.data.target)), splits, ids)
    return {
        "rows": [int((splits == code).sum()) for code in range(len(SPLITS))],
        "dropped": int((splits == DROPPED).sum()),
        "labels": labels,
        "inputs": {
            name: _PARTIALS[kind](values.column_of(training, name)) for name, kind in kinds.items()
        },
    }


def _labels(
    labels: list[str | None], splits: Splits, ids: npt.NDArray[np.int64]
) -> dict[str, dict[str, list[int]]]:
    """By split: each label's count and the first row that has it."""
    result: dict[str, dict[str, list[int]]] = {}
    for code, name in enumerate(SPLITS):
        seen = result.setdefault(name, {})
        for index in np.flatnonzero(splits == code).tolist():
            seen.setdefault(str(labels[index]), [0, int(ids[index])])[0] += 1
    return result


def _partial_numbers(column: pa.Array) -> Partial:
    parsed = values.parse_numbers(column)
    numbers = parsed.values[~parsed.missing]
    total, squares = exact_moments(numbers)
    low, high = (
        (float(numbers.min()), float(numbers.max())) if len(numbers) else (math.inf, -math.inf)
    )
    return {"rows": len(numbers), "sum": total, "squares": squares, "low": low, "high": high}


def _partial_categories(column: pa.Array) -> Partial:
    texts = values.texts(column)
    return {
        "counts": Counter(text for text in texts if text is not None),
        "missing": texts.count(None),
    }


def _partial_images(column: pa.Array) -> Partial:
    # Histograms are exact, and enough for mean and deviation.
    histogram, shape = np.zeros((3, 256), dtype=np.int64), (0, 0, 1)
    for pixels in values.images_of(column):
        shape = (*pixels.shape[:2], max(shape[2], pixels.shape[2]))
        counts = [
            np.bincount(pixels[:, :, c].ravel(), minlength=256) for c in range(pixels.shape[2])
        ]
        histogram += np.array(counts)  # A grey image counts in all three channels.
    return {"shape": shape, "histogram": histogram.tolist()}


_PARTIALS: dict[str, Callable[[pa.Array], Partial]] = {
    "numeric": _partial_numbers,
    "categorical": _partial_categories,
    "image": _partial_images,
}


# Adding ----------------------------------------------------------------------------------------------


def merge(parts: Iterable[Partial]) -> Partial:
    """Adds partials, given in the order of their rows."""
    total: Partial = {"rows": [0] * len(SPLITS), "dropped": 0, "labels": {}, "inputs": {}}
    for part in parts:
        total["rows"] = _add_all(total["rows"], part["rows"])
        total["dropped"] += part["dropped"]
        for split, seen in part["labels"].items():
            known = total["labels"].setdefault(split, {})
            for label, (count, first) in seen.items():
                known.setdefault(label, [0, first])[0] += count
        for name, column in part["inputs"].items():
            known = total["inputs"].get(name)
            total["inputs"][name] = column if known is None else _add(known, column)
    return total


def _add(a: Partial, b: Partial) -> Partial:
    if "counts" in a:
        return {
            "counts": Counter(a["counts"]) + Counter(b["counts"]),
            "missing": a["missing"] + b["missing"],
        }
    if "histogram" in a:
        return {
            "shape": [max(sizes) for sizes in zip(a["shape"], b["shape"], strict=True)],
            "histogram": [
                _add_all(x, y) for x, y in zip(a["histogram"], b["histogram"], strict=True)
            ],
        }
    sums = {key: a[key] + b[key] for key in ("rows", "sum", "squares")}
    return {**sums, "low": min(a["low"], b["low"]), "high": max(a["high"], b["high"])}


def _add_all(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def notes(total: Partial, cleaner: Cleaner) -> list[str]:
    """What a person should know about the columns: identifiers that nothing can be learnt from."""
    num_rows = total["rows"][TRAIN]
    found = []
    for name, kind in cleaner.kinds.items():
        num_values = len(total["inputs"][name]["counts"]) if kind == "categorical" else 0
        if num_values > cleaner.data.features.max_categories and num_values > num_rows // 2:
            found.append(
                f"note: column {name!r} has {num_values:,} different values in {num_rows:,} training rows; if it is "
                f"an identifier, leave it out: data.features.exclude: [{name}]"
            )
    return found


# What they add up to ---------------------------------------------------------------------------------


def finish(total: Partial, cleaner: Cleaner, layout: Layout) -> Features:
    """The features of a data set.

    Raises:
        DataError: A column without a value in the training rows, labels that make no classes.
    """
    data = cleaner.data
    inputs: dict[str, Column] = {
        name: _column(name, kind, total["inputs"][name], cleaner)
        for name, kind in cleaner.kinds.items()
    }
    classes: tuple[str, ...] = ()
    target_mean, target_scale = 0.0, 1.0
    if data.task == "regression":
        target_mean, target_scale = _mean_and_deviation(total["inputs"][data.target])
    else:
        classes = _classes(total["labels"], cleaner.data, layout)
    return Features(
        _signature(inputs, total, cleaner, classes),
        data.target,
        inputs,
        target_mean,
        target_scale,
        tuple(data.features.exclude),
        tuple(data.clean.missing_values) if layout.format == "csv" else (),
    )


def _mean_and_deviation(part: Partial) -> tuple[float, float]:
    mean = Fraction(part["sum"], part["rows"] << SHIFT)
    variance = Fraction(part["squares"], part["rows"] << 2 * SHIFT) - mean * mean
    # The mean of equal numbers is exact, so the deviation of a constant column is 0 and not nearly 0.
    return float(mean), _root(variance) or 1.0


def _root(square: Fraction) -> float:
    # The square of a double may lie outside the range of doubles; its root does not.
    return float(
        Fraction(math.isqrt((square.numerator << 2 * SHIFT) // square.denominator), 1 << SHIFT)
    )


def _column(name: str, kind: str, part: Partial, cleaner: Cleaner) -> Column:
    if kind == "image":
        channels, height, width = part["shape"][2], part["shape"][0], part["shape"][1]
        return Image(height, width, channels)
    if not part["counts" if kind == "categorical" else "rows"]:
        message = f"column {name!r} has no value in any training row"
        raise DataError(message, f"Leave it out: data.features.exclude: [{name}]")
    if kind == "categorical":
        return _categorical(part, cleaner.data.features.max_categories)
    mean, deviation = _mean_and_deviation(part)
    if cleaner.data.features.scale == "none":
        return Numeric(mean, 0.0, 1.0)
    if cleaner.data.features.scale == "min_max":
        return Numeric(mean, part["low"], (part["high"] - part["low"]) or 1.0)
    return Numeric(mean, mean, deviation)


def _categorical(part: Partial, max_categories: int) -> Categorical:
    ranked = sorted(part["counts"].items(), key=lambda item: (-item[1], item[0]))
    categories = tuple(category for category, _ in ranked[:max_categories])
    return Categorical(
        categories, has_other=len(ranked) > len(categories), has_missing=part["missing"] > 0
    )


def _signature(
    inputs: dict[str, Column], total: Partial, cleaner: Cleaner, classes: tuple[str, ...]
) -> Signature:
    task, first = cleaner.data.task, next(iter(inputs.values()))
    if not isinstance(first, Image):
        num_inputs = sum(
            column.num_inputs for column in inputs.values() if not isinstance(column, Image)
        )
        return Signature("vector", (num_inputs,), "float32", (), (), task, classes)
    mean, scale = _pixel_scale(
        total["inputs"][next(iter(inputs))], first, cleaner.data.features.scale
    )
    return Signature("image", first.shape, "uint8", mean, scale, task, classes)


def _pixel_scale(
    part: Partial, image: Image, scale: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if scale != "standard":
        return (0.0,) * image.channels, (255.0 if scale == "min_max" else 1.0,) * image.channels
    means, deviations = [], []
    for counts in part["histogram"][: image.channels]:
        num_pixels = sum(counts)
        mean = Fraction(sum(value * count for value, count in enumerate(counts)), num_pixels)
        square = Fraction(
            sum(value * value * count for value, count in enumerate(counts)), num_pixels
        )
        means.append(float(mean))
        deviations.append(_root(square - mean * mean) or 1.0)
    return tuple(means), tuple(deviations)


def _classes(
    labels: dict[str, dict[str, list[int]]], data: Data, layout: Layout
) -> tuple[str, ...]:
    training = labels["train"]
    if len(training) < 2:
        only = ", ".join(repr(label) for label in training)
        raise DataError(
            f"target {data.target!r}: all training rows have the same label, {only}",
            "Two classes are the least.",
        )
    if data.classes is None and len(training) > max(
        _LEAST_CLASSES_TO_DOUBT, _num_rows(training) // 2
    ):
        message = f"target {data.target!r} has {len(training):,} different labels in {_num_rows(training):,} rows"
        raise DataError(message, "Is this task: regression? Otherwise list them: data.classes.")
    classes = tuple(data.classes or _in_order(training))
    for split, seen in labels.items():
        unknown = [(first, label) for label, (_, first) in seen.items() if label not in classes]
        if not unknown:
            continue
        first, label = min(unknown)
        place = f"{layout.place(first)}: {data.target}: label {label!r}"
        if data.classes is not None:
            raise DataError(
                f"{place} is not one of data.classes", f"They are {', '.join(classes)}."
            )
        hint = f"Training has seen {', '.join(classes)}. List all classes in data.classes to go on."
        raise DataError(f"{place} of a {split} row was never seen in training", hint)
    return classes


def _num_rows(seen: dict[str, list[int]]) -> int:
    return sum(count for count, _ in seen.values())


def _in_order(labels: Iterable[str]) -> list[str]:
    names = sorted(labels)
    try:
        return sorted(names, key=float)
    except ValueError:
        return names
