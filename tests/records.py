"""Rows of named fields of every kind, for tests: columns, codes, tokens, a series, a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydc.data import shards
from raydc.features import (
    Categorical,
    CategoryCodes,
    Features,
    Field,
    Numeric,
    Ragged,
    Record,
    Signature,
)
from raydc.features.table_layout import TableLayout
from raydc.storage import Storage

COLORS, CITIES, VOCABULARY = ("red", "green", "blue"), ("Rome", "Oslo", "Lima"), 40
LAYOUT = TableLayout((0, len(COLORS)))
FIELDS = {
    "columns": Field("array", "float32", (4,), columns=("height", "color"), widths=(1, 3)),
    "city": Field("array", "uint8", num_codes=4),
    "words": Field("list", "uint8", num_codes=VOCABULARY, max_length=30),
    "series": Field("list", "float32", (2,), max_length=20),
    "photo": Field("array", "uint8", (1, 4, 4), mean=(90.0,), scale=(60.0,)),
}
CLASSES = ("no", "yes")


def record_features(fields: dict[str, Field] = FIELDS) -> Features:
    signature = Signature("record", (), "", (), (), "classification", CLASSES, fields)
    columns = {
        "height": Numeric(170.0, 170.0, 10.0),
        "color": Categorical(COLORS, has_other=False, has_missing=False),
        "city": CategoryCodes(CITIES, has_other=False, has_missing=False),
    }
    return Features(signature, "answer", columns)


def make_rows(count: int, seed: int, *, is_stored: bool = True) -> tuple[Record, Any]:
    """Rows, and targets that depend on them.

    Args:
        count: Number of rows.
        seed: Seed of the rows.
        is_stored: Columns as they are stored, with codes; or as a network takes them.
    """
    choose = np.random.default_rng(seed)
    table = LAYOUT.store(
        [
            choose.standard_normal((count, 1)).astype(np.float32),
            choose.integers(0, len(COLORS) + 1, count).astype(np.uint8),
        ]
    )
    words = [choose.integers(0, VOCABULARY, n).astype(np.uint8) for n in _lengths(choose, count)]
    series = [
        choose.standard_normal((n, 2)).astype(np.float32) for n in _lengths(choose, count, 20)
    ]
    city = choose.integers(0, 4, count).astype(np.uint8)
    fields = {
        "city": city,
        "words": Ragged.of_lists(words, np.empty(0, np.uint8)),
        "series": Ragged.of_lists(series, np.empty((0, 2), np.float32)),
        "photo": choose.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8),
    }
    y = ((table["columns.numbers"][:, 0] > 0) ^ (city % 2 == 1)).astype(np.int64)
    stored = Record({**table, **fields}, LAYOUT)
    rows = stored if is_stored else stored.expanded()
    assert isinstance(rows, Record)
    return rows, y


def _lengths(choose: np.random.Generator, count: int, most: int = 30) -> list[int]:
    lengths: list[int] = choose.integers(0, most + 1, count).tolist()
    return lengths


def write_records(folder: Storage) -> Storage:
    """A prepared data set of records: 200 rows to train on, 600 for validation.

    They are ranked in groups of about a dozen rows.
    """
    splits = {"train": make_rows(200, 0), "validation": make_rows(600, 1)}
    choose = np.random.default_rng(2)
    queries = {name: choose.integers(0, 50, len(y)) << 50 for name, (_, y) in splits.items()}
    shards.write_data_set(folder, record_features(), splits, num_rows_per_shard=64, queries=queries)
    return folder
