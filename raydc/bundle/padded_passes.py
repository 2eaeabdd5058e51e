"""Forward passes in the sizes at which no row depends on others. Where `raydc.bundle.padding` runs.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raydc.bundle.padding import Array, Padding, Run
from raydc.features import Inputs
from raydc.features.record import bucket_keys


class PaddingByLengths:
    """Sizes of forward passes for rows with lists, found when rows of some lengths come first.

    Args:
        measure: Finds the sizes for padded lengths.
    """

    def __init__(self, measure: Callable[[tuple[int, ...]], Padding]) -> None:
        self._measure = measure
        self._known: dict[tuple[int, ...], Padding] = {}

    def find(self, lengths: Sequence[int]) -> None:
        """Finds the sizes for rows of one list with each of some padded lengths."""
        for length in lengths:
            _ = self[(length,)]

    def __getitem__(self, lengths: tuple[int, ...]) -> Padding:
        if lengths not in self._known:
            self._known[lengths] = self._measure(lengths)
        return self._known[lengths]


def run_padded(run: Run, x: Inputs, sizes: Padding) -> Array:
    """Runs a network in the sizes at which no row depends on others.

    Args:
        run: Forward pass, maps inputs of B rows to outputs [B, K].
        x: Inputs of any number of rows.
        sizes: Numbers of rows that a pass may have.
    """
    num_rows, most = len(x), sizes.max_rows
    if num_rows <= most:
        return run(sizes.pad(x))[:num_rows] if num_rows else run(x)
    starts = range(0, num_rows, most)
    return np.concatenate([run_padded(run, x[start : start + most], sizes) for start in starts])


def run_by_lengths(run: Run, x: Inputs, sizes: PaddingByLengths) -> Array:
    """Does what `run_padded` does for rows with lists.

    A row is padded to the length of its own lists, so it is computed with rows of that length.

    Args:
        run: Forward pass, maps inputs of B rows to outputs [B, K].
        x: Rows with lists, any number of them.
        sizes: Numbers of rows that a pass may have, by padded lengths.
    """
    keys = bucket_keys(x)
    if keys is None or not len(x):
        return run(x)
    parts, positions = [], []
    for lengths in np.unique(keys, axis=0):
        rows = np.flatnonzero((keys == lengths).all(axis=1))
        parts.append(run_padded(run, x[rows], sizes[tuple(lengths.tolist())]))
        positions.append(rows)
    outputs_BK = np.empty((len(x), parts[0].shape[1]), dtype=parts[0].dtype)
    outputs_BK[np.concatenate(positions)] = np.concatenate(parts)
    return outputs_BK
