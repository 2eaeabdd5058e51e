"""Equal rows: found by what a network would take, whatever the blocks and the parts."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from raydc.data import row_copies, values
from raydc.data.clean import TRAIN, Cleaner
from raydc.data.row_copies import RowCopies
from raydc.spec import from_dict, resolve

KINDS = {"a": "numeric", "b": "categorical"}


def _cleaner(validation_fraction: float = 0.3) -> Cleaner:
    section = {
        "source": "rows.csv",
        "target": "y",
        "split": {"validation_fraction": validation_fraction, "test_fraction": 0.2},
    }
    spec = from_dict({"name": "x", "data": section, "model": {"name": "linear"}})
    return Cleaner(None, resolve(spec).data, 0, KINDS)


def _table(rows: list[tuple[str | None, str | None, str]]) -> pa.Table:
    a, b, y = zip(*rows, strict=True)
    ids = np.arange(len(rows), dtype=np.int64)
    return pa.table({values.ROW_ID: ids, "a": list(a), "b": pa.array(b, pa.string()), "y": list(y)})


def _find(table: pa.Table, cuts: list[int], num_parts: int) -> RowCopies:
    blocks = [table.slice(a, b - a) for a, b in itertools.pairwise([0, *cuts, table.num_rows])]
    digests = [row_copies.digest_block(block, _cleaner()) for block in blocks]
    parts = [row_copies.find_copies(digests, part, num_parts) for part in range(num_parts)]
    return row_copies.merge_copies([part.to_json() for part in parts])


@pytest.mark.parametrize(("cuts", "num_parts"), [([], 3), ([7, 8, 90], 1), ([50], 5)])
def test_copies_do_not_depend_on_blocks_and_parts(cuts: list[int], num_parts: int) -> None:
    generator = np.random.default_rng(0)
    rows = [
        (str(one), "uv"[one % 2], "pq"[int(other)])
        for one, other in zip(
            generator.integers(0, 60, 120).tolist(), generator.integers(0, 2, 120), strict=True
        )
    ]
    table = _table(rows)
    found, whole = _find(table, cuts, num_parts), _find(table, [], 1)
    assert found == whole
    splits = _cleaner().assign_splits(table)
    inputs = [row[:2] for row in rows]
    training = {pair for pair, split in zip(inputs, splits, strict=True) if split == TRAIN}
    for split, name in ((1, "validation"), (2, "test")):
        held_out = [pair for pair, code in zip(inputs, splits, strict=True) if code == split]
        assert found.across[f"train/{name}"] == sum(pair in training for pair in held_out)
        assert found.repeated[split] == len(held_out) - len(set(held_out))
    labels: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        labels.setdefault(row[:2], set()).add(row[2])
    assert found.conflicts == sum(len(names) == 2 for names in labels.values())
    for first, second in found.conflict_examples:
        assert rows[first][:2] == rows[second][:2]
        assert rows[first][2] != rows[second][2]


def test_rows_are_equal_if_a_network_takes_the_same() -> None:
    def repeated(*rows: tuple[str | None, str | None, str]) -> int:
        # Enough copies that two of them are in one split, whatever the split is.
        found = _find(_table([*rows] * 4), [], 1)
        return len(rows) * 4 - sum(found.repeated) - _num_split_groups(rows)

    assert repeated(("1", "u", "p"), ("1.0", "u", "p"), (" 1", "u", "p")) == 0
    assert repeated(("0", "u", "p"), ("-0", "u", "p")) == 0
    assert repeated((None, None, "p"), ("nan", None, "p")) == 0
    assert repeated(("1", "u", "p"), ("2", "u", "p")) == 0
    assert repeated(("0", "u", "p"), (None, "u", "p")) == 0
    assert repeated(("1", "missing", "p"), ("1", None, "p")) == 0


def _num_split_groups(rows: tuple[tuple[str | None, str | None, str], ...]) -> int:
    table = _table([*rows] * 4)
    splits = _cleaner().assign_splits(table).tolist()

    def key(row: tuple[str | None, str | None, str]) -> tuple[float | None, str | None]:
        number = None if row[0] in (None, "nan") else float(row[0] or 0)
        return number, row[1]

    return len({(key(row), split) for row, split in zip([*rows] * 4, splits, strict=True)})


def test_rows_without_copies_give_none() -> None:
    found = _find(_table([(str(row), None, "p") for row in range(40)]), [3], 2)
    assert found == RowCopies(across=dict.fromkeys(found.across, 0))
    assert set(found.across) == {"train/validation", "train/test", "validation/test"}
