"""Rows that have equal inputs, within a split and across splits: for `raydc inspect`.

Rows become digests in a task for each block; digests are compared in tasks of their own, each of
which handles a part of them. Numbers are equal by value and categories by text, as a network takes
them.

Shape suffixes: B rows, G groups of equal rows, S splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydc.data import values
from raydc.data.clean import DROPPED, Cleaner
from raydc.data.row_digest import digest_rows
from raydc.data.shards import SPLITS
from raydc.order import Ids, mix

_MAX_EXAMPLES = 5
_PAIRS = tuple((a, b) for a in range(len(SPLITS)) for b in range(a + 1, len(SPLITS)))
# Bits of a missing value, and a constant that makes the two halves of a digest differ.
_MISSING = np.uint64(0x6D69_7373)
_SECOND = np.uint64(0x9E37_79B9_7F4A_7C15)
_Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RowCopies:
    """Rows with equal inputs.

    Attributes:
        repeated: Rows of each split that repeat an earlier one of the same split.
        across: Rows of the second split whose inputs are in the first too, by `first/second`.
        conflicts: Groups of equal inputs with different targets.
        examples: Row ids of a pair for each entry of `across` that is not 0.
        conflict_examples: Row ids of some pairs with different targets.
    """

    repeated: tuple[int, ...] = (0,) * len(SPLITS)
    across: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    examples: dict[str, tuple[int, int]] = field(default_factory=dict)
    conflict_examples: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Converts it to plain JSON values, which a task returns."""
        return asdict(self)


def digest_block(table: pa.Table, cleaner: Cleaner) -> pa.Table:
    """Digests of the rows of a block that are in a split, with their ids, splits and targets.

    Args:
        table: Raw rows of the block, with their ids.
        cleaner: Assigns rows to splits, and knows the inputs and the target.
    """
    codes = cleaner.assign_splits(table)
    rows, codes = table.filter(pa.array(codes != DROPPED)), codes[codes != DROPPED]
    halves = [np.zeros(rows.num_rows, dtype=np.uint64), np.full(rows.num_rows, _SECOND)]
    for name, kind in cleaner.kinds.items():
        hashes = _hash_column(name, values.column_of(rows, name), kind)
        halves = [mix(half ^ part) for half, part in zip(halves, hashes, strict=True)]
    kind = "numeric" if cleaner.data.task == "regression" else "categorical"
    target, _ = _hash_column("", values.column_of(rows, cleaner.data.target), kind)
    return pa.table(
        {
            "id": values.row_ids(rows),
            "split": codes,
            "first": halves[0],
            "second": halves[1],
            "target": target,
        }
    )


def _hash_column(name: str, column: pa.Array, kind: str) -> list[_Hashes]:
    """Two hashes of each cell."""
    if kind == "numeric":
        numbers = values.parse_numbers(column).values
        # Any NaN is a missing one, and -0.0 is 0.0.
        bits = np.where(np.isnan(numbers), 0.0, numbers + 0.0).view(np.uint64)
        bits = np.where(np.isnan(numbers), _MISSING, bits)
        return [mix(bits), mix(bits ^ _SECOND)]
    if kind == "categorical":
        texts = values.coded_texts(column)
        none = (int(_MISSING), int(_MISSING))
        known = [none if text is None else _hash_bytes(text.encode()) for text in texts.distinct]
        table = np.array(known, dtype=np.uint64).reshape(-1, 2)
        return [table[texts.codes_B, 0], table[texts.codes_B, 1]]
    digests = digest_rows({name: pa.chunked_array([column])}, len(column))
    table = np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
    return [table[:, 0], table[:, 1]]


def _hash_bytes(content: bytes) -> tuple[int, int]:
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def find_copies(tables: Iterable[pa.Table], part: int, num_parts: int) -> RowCopies:
    """Finds rows with equal inputs among those of one part of all digests.

    Args:
        tables: Tables of `digest_block` of all blocks, because equal rows may be in any two.
        part: Handles the digests that are `part` modulo `num_parts`.
        num_parts: Number of tasks, which bounds the digests that one holds at once.
    """
    chosen = []
    for table in tables:
        is_ours = table.column("first").to_numpy() % np.uint64(num_parts) == part
        chosen.append(table.filter(pa.array(is_ours)))
    rows = pa.concat_tables(chosen)
    ids, splits, first, second, targets = (
        rows.column(name).to_numpy() for name in ("id", "split", "first", "second", "target")
    )
    # Equal digests lie beside each other, in the order of their splits and ids.
    order = np.lexsort((ids, splits, second, first))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = np.diff(first[order]).astype(bool) | np.diff(second[order]).astype(bool)
    group_B = np.cumsum(begins) - 1
    is_shared = np.bincount(group_B)[group_B] > 1 if len(group_B) else begins
    kept = order[is_shared]
    _, group_B = np.unique(group_B[is_shared], return_inverse=True)
    return _judge(group_B, ids[kept], splits[kept], targets[kept])


def _judge(
    group_B: npt.NDArray[np.int64], ids: Ids, splits: npt.NDArray[np.int8], targets: _Hashes
) -> RowCopies:
    num_groups = int(group_B.max(initial=-1)) + 1
    counts_GS = np.zeros((num_groups, len(SPLITS)), dtype=np.int64)
    np.add.at(counts_GS, (group_B, splits), 1)
    least_GS = np.full(counts_GS.shape, np.iinfo(np.int64).max)
    np.minimum.at(least_GS, (group_B, splits), ids)
    across, examples = {}, {}
    for a, b in _PAIRS:
        both = (counts_GS[:, a] > 0) & (counts_GS[:, b] > 0)
        pair = f"{SPLITS[a]}/{SPLITS[b]}"
        across[pair] = int(counts_GS[both, b].sum())
        if both.any():
            least = least_GS[both][np.argmin(least_GS[both, a])]
            examples[pair] = (int(least[a]), int(least[b]))
    low_G, high_G = np.full(num_groups, np.iinfo(np.uint64).max), np.zeros(num_groups, np.uint64)
    np.minimum.at(low_G, group_B, targets)
    np.maximum.at(high_G, group_B, targets)
    clashing = np.flatnonzero(low_G != high_G)
    return RowCopies(
        tuple(np.maximum(counts_GS - 1, 0).sum(axis=0).tolist()),
        across,
        len(clashing),
        examples,
        tuple(_clashes(clashing, group_B, ids, targets)),
    )


def _clashes(
    clashing: npt.NDArray[np.int64], group_B: npt.NDArray[np.int64], ids: Ids, targets: _Hashes
) -> list[tuple[int, int]]:
    """The first row of a group and the first with another target, of the first groups."""
    firsts = np.full(int(group_B.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(firsts, group_B, ids)
    pairs = []
    for group in clashing[np.argsort(firsts[clashing], kind="stable")][:_MAX_EXAMPLES].tolist():
        rows = np.flatnonzero(group_B == group)
        rows = rows[np.argsort(ids[rows])]
        other = rows[targets[rows] != targets[rows[0]]][0]
        pairs.append((int(ids[rows[0]]), int(ids[other])))
    return pairs


def merge_copies(parts: Sequence[dict[str, Any]]) -> RowCopies:
    """Adds up what the tasks have found, each in its part of the digests."""
    across = {pair: sum(part["across"][pair] for part in parts) for pair in parts[0]["across"]}
    examples: dict[str, tuple[int, int]] = {}
    for part in parts:
        for pair, (first, second) in part["examples"].items():
            # The lowest pair, so that the example does not depend on how rows are shared out to
            # tasks.
            examples[pair] = min(examples.get(pair, (first, second)), (first, second))
    clashes = sorted((a, b) for part in parts for a, b in part["conflict_examples"])
    return RowCopies(
        tuple(sum(counts) for counts in zip(*(part["repeated"] for part in parts), strict=True)),
        across,
        sum(part["conflicts"] for part in parts),
        examples,
        tuple(clashes[:_MAX_EXAMPLES]),
    )
