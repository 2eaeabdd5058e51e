"""Values by their rank and most frequent values of columns, exact and without sorting all rows.

Pure; counts are made in tasks of Ray Data and merged in the driver. A number is an unsigned key of
64 bits in the same order. A search counts one digit of the keys at a time, so that a block returns
few counts, whatever its size, and adding counts rounds nothing: the result is the same however the
rows were cut into blocks.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.order import mix

Keys = npt.NDArray[np.uint64]
# {series: {digits as text: number of keys}}, as JSON passes it on.
Counts = dict[str, dict[str, int]]
# Returns the wanted ranks, from 0, of a series with the given number of keys.
Ranks = Callable[[int], Sequence[int]]

# Bits of a digit: many for a few ranks, because each digit is a pass over the rows; few for many
# ranks, because a block may return as many counts for each rank as a digit has values.
FEW_RANKS, MANY_RANKS = 16, 8
_KEY_BITS = 64
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class Orders:
    """What the ranks of the training rows' numbers say, by column.

    Attributes:
        fills: Median or most frequent number, for the columns that are filled with it.
        spreads: Median, and distance of the quartiles, for the columns that are scaled by them.
        limits: Limits that numbers are brought to.
        quantiles: Quantiles, for the columns that are scaled by their rank among them.
    """

    fills: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)


def keys_of(numbers: npt.NDArray[np.float64]) -> Keys:
    """Keys of finite numbers, in the order of the numbers; both zeros have one key."""
    bits = (np.asarray(numbers, dtype=np.float64) + 0.0).view(np.uint64)
    # The bits of negative numbers grow as the numbers fall.
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def number_of(key: int) -> float:
    """The number of a key; the inverse of `keys_of`."""
    word = np.array([key], dtype=np.uint64)
    bits = np.where(word & _SIGN, word ^ _SIGN, ~word)
    return float(bits.view(np.float64)[0])


def count_digits(
    series: Mapping[str, Keys], heads: Mapping[str, Sequence[int]], level: int, bits: int
) -> Counts:
    """Counts the next digits of the keys of a block.

    Args:
        series: Keys by name of their series.
        heads: For each series, the first digits that its keys must have, as whole numbers of
            `bits * level` bits. Ignored at the first level.
        level: Number of digits that are known already.
        bits: Bits of a digit: `FEW_RANKS` or `MANY_RANKS`.

    Returns:
        For each series, the number of keys by their first digits, one digit longer.
    """
    shift = np.uint64(_KEY_BITS - bits * (level + 1))
    found: Counts = {}
    for name, keys in series.items():
        if name not in heads:
            continue
        digits = keys >> shift
        if level:
            wanted = np.array(sorted(heads[name]), dtype=np.uint64)
            digits = digits[np.isin(digits >> np.uint64(bits), wanted)]
        different, counts = np.unique(digits, return_counts=True)
        found[name] = {
            str(digit): count
            for digit, count in zip(different.tolist(), counts.tolist(), strict=True)
        }
    return found


def merge_counts(parts: Iterable[Counts]) -> Counts:
    """Adds the counts of blocks."""
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.items():
            total.setdefault(name, Counter()).update(counts)
    return {name: dict(counts) for name, counts in total.items()}


def find_ranks(
    wanted: Mapping[str, Ranks], count: Callable[[dict[str, list[int]], int], Counts], bits: int
) -> dict[str, list[int]]:
    """Finds keys by their rank.

    Args:
        wanted: For each series, the ranks as a function of the number of its keys.
        count: Counts all keys, as `count_digits` does for a block; called once for each level.
        bits: Bits of a digit: `FEW_RANKS` or `MANY_RANKS`.

    Returns:
        For each series the key of each rank, in the order of the ranks; none for a series
        without keys.
    """
    # For each rank the digits known so far, and the rank among the keys that begin with them.
    known: dict[str, list[tuple[int, int]]] = {}
    for level in range(_KEY_BITS // bits):
        heads = {name: sorted({head for head, _ in known.get(name, ())}) for name in wanted}
        counts = count(heads, level)
        for name, ranks in wanted.items():
            by_head: dict[int, list[tuple[int, int]]] = {}
            for digits, n in sorted((int(text), n) for text, n in counts.get(name, {}).items()):
                by_head.setdefault(digits >> bits, []).append((digits, n))
            if not level:
                total = sum(n for _, n in by_head.get(0, ()))
                known[name] = [(0, rank) for rank in ranks(total)] if total else []
            ends = {
                head: list(itertools.accumulate(n for _, n in found))
                for head, found in by_head.items()
            }
            known[name] = [_descend(by_head[head], ends[head], rank) for head, rank in known[name]]
    return {name: [key for key, _ in states] for name, states in known.items()}


def _descend(
    by_digits: Sequence[tuple[int, int]], ends: Sequence[int], rank: int
) -> tuple[int, int]:
    """The digits in which a rank lies, and the rank among the keys that begin with them."""
    place = bisect.bisect_right(ends, rank)
    digits, num_keys = by_digits[place]
    return digits, rank - (ends[place] - num_keys)


def count_values(series: Mapping[str, Keys], part: int, num_parts: int) -> dict[str, Counter[int]]:
    """Counts the different keys of one part of all keys, which bounds what is held at once.

    Args:
        series: Keys of a block, by name of their series.
        part: Number of the part to count, from 0.
        num_parts: Number of parts; all equal keys are in one of them.
    """
    found = {}
    for name, keys in series.items():
        mine = keys[mix(keys) % np.uint64(num_parts) == np.uint64(part)]
        different, counts = np.unique(mine, return_counts=True)
        found[name] = Counter(dict(zip(different.tolist(), counts.tolist(), strict=True)))
    return found


def most_frequent(counts: Mapping[int, int]) -> tuple[int, int] | None:
    """Key with the greatest count and that count; of several the least. None if there is none."""
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=None)


def merge_most_frequent(found: Iterable[Any]) -> int | None:
    """The most frequent key of all parts, of which each gives its own, or None."""
    best = [(-count, key) for pair in found if pair is not None for key, count in [pair]]
    return min(best)[1] if best else None
