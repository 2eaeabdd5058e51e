"""All kinds of fitted columns, and their JSON values. Pure; used in every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from raydc.features.category_columns import Categorical, CategoryCodes, HashedCategory
from raydc.features.conversation_column import Conversations
from raydc.features.date_column import DateParts
from raydc.features.encoded_categories import CategoryNumbers, OrdinalCategory, TargetMean
from raydc.features.image_column import Image
from raydc.features.list_column import NumberList
from raydc.features.number_column import Numeric
from raydc.features.series_window import SeriesWindow
from raydc.features.table_column import TableColumn
from raydc.features.text_column import Text
from raydc.features.token_block import TokenBlock

Column = TableColumn | Image | Text | TokenBlock | Conversations | NumberList | SeriesWindow
# Columns whose raw values are categories, whatever becomes of them.
CATEGORIES = (Categorical, CategoryNumbers)

_LATER_FIELDS = (
    "as_shown",
    "low",
    "high",
    "marks_missing",
    "fill",
    "is_log",
    "quantiles",
    "second",
    "first",
)
_KINDS: dict[str, Callable[..., Column]] = {
    "numeric": Numeric,
    "date": DateParts,
    "categorical": Categorical,
    "embedding": CategoryCodes,
    "hashing": HashedCategory,
    "ordinal": OrdinalCategory,
    "target": TargetMean,
    "image": Image,
    "text": Text,
    "tokens": TokenBlock,
    "conversations": Conversations,
    "window": SeriesWindow,
    "list": NumberList,
}


def column_to_dict(column: Column) -> dict[str, Any]:
    """Plain JSON values, which `column_from_dict` reads."""
    fields = {name: _listed(value) for name, value in asdict(column).items()}
    # Left out at their defaults, so that features of an older raydc keep their hash.
    for name in _LATER_FIELDS:
        # Not with `in`: a limit of 0.0 equals False, but is not a default.
        if fields.get(name) is None or fields[name] is False or fields[name] == []:
            fields.pop(name, None)
    return {"kind": column.kind, **fields}


def column_from_dict(value: dict[str, Any]) -> Column:
    """The inverse of `column_to_dict`. Raises KeyError or TypeError for any other value."""
    fields = {name: _in_tuples(part) for name, part in value.items() if name != "kind"}
    return _KINDS[value["kind"]](**fields)


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _in_tuples(value: Any) -> Any:
    return tuple(_in_tuples(one) for one in value) if isinstance(value, list) else value
