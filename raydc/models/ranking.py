"""How well rows are ranked inside their groups: NDCG. Pure.

Everything is computed in the order of groups, scores and rows, so that its digits follow from the
rows alone.

Shape suffixes: N rows, T ties (rows of one group with one score), G groups.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from raydc.models.metric_values import Value

_Floats = npt.NDArray[np.float64]
_Ids = npt.NDArray[np.int64]


def ndcg(scores_N: _Floats, gains_N: _Floats, queries_N: _Ids, k: int) -> Value:
    """Mean normalised discounted cumulative gain of the first places of each group.

    Like scikit-learn's: the gain of a row is its target, divided by log2 of its place plus one;
    rows with the same score share their places. Groups without a gain have no right order and are
    left out of the mean.

    Args:
        scores_N: Scores by which rows are ranked, the highest first.
        gains_N: Targets of the rows; negative ones leave the metric undefined.
        queries_N: Number of the group that each row belongs to.
        k: Number of places in each group that count.
    """
    if not len(scores_N):
        return "there are no rows"
    if not np.isfinite(scores_N).all():
        return "some scores are not numbers"
    if gains_N.min() < 0:
        return "some targets are negative"
    order = np.lexsort((-scores_N, queries_N))
    discounts_N, starts_N = _discounts(queries_N[order], k)
    scores, gains = scores_N[order], gains_N[order]
    begins_N = starts_N.copy()
    begins_N[1:] |= scores[1:] != scores[:-1]
    tie_N = np.cumsum(begins_N) - 1
    # Equal scores have no order, so each of their places counts with the mean of their gains.
    mean_T = np.bincount(tie_N, weights=gains) / np.bincount(tie_N)
    found_T = mean_T * np.bincount(tie_N, weights=discounts_N)
    group_T = (np.cumsum(starts_N) - 1)[begins_N]
    found_G = np.bincount(group_T, weights=found_T)
    # Sorted by gain, the groups keep their places, so discounts and starts hold here as well.
    best = gains_N[np.lexsort((-gains_N, queries_N))]
    best_G = np.bincount(np.cumsum(starts_N) - 1, weights=best * discounts_N)
    judged_G = best_G > 0
    if not judged_G.any():
        return "no group has a target above 0"
    ratios = (found_G[judged_G] / best_G[judged_G]).tolist()
    return math.fsum(ratios) / len(ratios)


def _discounts(ordered_N: _Ids, k: int) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """Discount of each place, and whether a group begins there.

    Args:
        ordered_N: Numbers of the groups of the rows, sorted.
        k: Number of places in each group that count.
    """
    starts_N = np.ones(len(ordered_N), dtype=bool)
    starts_N[1:] = ordered_N[1:] != ordered_N[:-1]
    first = np.flatnonzero(starts_N)
    places_N = np.arange(len(ordered_N)) - np.repeat(first, np.diff([*first, len(ordered_N)]))
    return np.where(places_N < k, 1.0 / np.log2(places_N + 2.0), 0.0), starts_N
