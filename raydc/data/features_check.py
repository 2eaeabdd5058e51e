"""Checks that the conversion of columns fits what the columns hold. Runs in the driver."""

from __future__ import annotations

from collections.abc import Mapping

from raydc.errors import DataError
from raydc.spec.feature_options import FeatureOptions
from raydc.spec.sections import Data


def check_features(data: Data, kinds: Mapping[str, str]) -> None:
    """Refuses an option of `data.features` that is for columns of another kind.

    Args:
        data: Section `data` of the spec.
        kinds: Kind of each input column; dates have the kind of numbers.

    Raises:
        DataError: An encoding is for a column without categories, or a scale for one without
            numbers.
    """
    features = data.features
    for name, encoding in features.encodings.items():
        if encoding == "target" and _has_several_targets(data):
            raise DataError(
                f"data.features.encodings: {name!r} cannot have the encoding target, because each "
                "row has several targets",
                "Use hashing or embedding for a column with many categories.",
            )
        if kinds.get(name, "categorical") != "categorical":
            raise DataError(
                f"data.features.encodings: column {name!r} is {_kind_of(name, features, kinds)}, "
                "and only categories have an encoding",
                f"Add to data.features.columns: {{{name}: categorical}}",
            )
    for name in features.scales:
        if kinds.get(name, "numeric") != "numeric":
            raise DataError(
                f"data.features.scales: column {name!r} is {kinds[name]}, and only numbers have a "
                "scale",
                f"Leave {name} out of data.features.scales.",
            )


def _has_several_targets(data: Data) -> bool:
    steps = 1 if data.windows is None else data.windows.horizon
    return data.task == "multilabel" or steps > 1


def _kind_of(name: str, features: FeatureOptions, kinds: Mapping[str, str]) -> str:
    return "date" if features.columns.get(name) == "date" else kinds[name]
