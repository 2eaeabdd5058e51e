"""Areas under curves and calibration from the scores of all rows. Pure.

torchmetrics has the same values, which tests compare. Its import takes longer than all scores of
most models: it loads torchvision, transformers and the compiler of torch where they are installed.

Shape suffixes: N rows, T thresholds, B bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Bins of the expected calibration error, as in Guo et al. 2017 (arXiv 1706.04599).
NUM_BINS = 15


def area_under_roc(scores_N: Tensor, is_it_N: Tensor) -> float:
    """Area under the receiver operating characteristic; of equal scores, half counts as right.

    It is the share of pairs of a positive and a negative row that the scores put into the right
    order (Hanley and McNeil 1982). Pairs are counted as whole numbers, so the order of the rows
    changes no bit.

    Args:
        scores_N: Finite scores; rows with higher ones are more likely positive.
        is_it_N: bool; which rows are positive. At least one is, and at least one is not.
    """
    positives_T, negatives_T = _counts_at_thresholds(scores_N, is_it_N)
    # Twice the area of each trapezoid, whose corners are counts.
    steps_T = negatives_T.diff(prepend=negatives_T.new_zeros(1))
    sums_T = positives_T + torch.cat([positives_T.new_zeros(1), positives_T[:-1]])
    pairs = int(positives_T[-1]) * int(negatives_T[-1])
    return int((steps_T * sums_T).sum()) / (2 * pairs)


def average_precision(scores_N: Tensor, is_it_N: Tensor) -> float:
    """Mean precision, weighted by the recall that each threshold adds, with no interpolation.

    Args:
        scores_N: Finite scores; rows with higher ones are more likely positive.
        is_it_N: bool; which rows are positive. At least one is.
    """
    positives_T, negatives_T = _counts_at_thresholds(scores_N, is_it_N)
    precision_T = positives_T.double() / (positives_T + negatives_T)
    added_T = positives_T.diff(prepend=positives_T.new_zeros(1))
    return float((precision_T * added_T).sum() / positives_T[-1])


def calibration_error(best_N: Tensor, is_right_N: Tensor) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins of rows.

    Args:
        best_N: Highest probability of each row, from 0 to 1.
        is_right_N: bool; whether the class with that probability is the right one.
    """
    # Bins are open above; 1 has the last one together with what comes before it.
    edges_B = torch.linspace(0, 1, NUM_BINS + 1, dtype=best_N.dtype)[1:-1]
    bins_N = torch.bucketize(best_N, edges_B, right=True)
    gaps_N = is_right_N.to(torch.float64) - best_N.double()
    gaps_B = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins_N, gaps_N)
    return float(gaps_B.abs().sum() / len(best_N))


def _counts_at_thresholds(scores_N: Tensor, is_it_N: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative rows whose score is at least each distinct score, highest first."""
    sorted_N, order_N = scores_N.sort(descending=True, stable=True)
    positives_N = is_it_N[order_N].long().cumsum(0)
    # The last row of each run of equal scores.
    is_last_N = torch.ones(len(sorted_N), dtype=torch.bool)
    is_last_N[:-1] = sorted_N[:-1] != sorted_N[1:]
    places_T = is_last_N.nonzero().squeeze(1)
    positives_T = positives_N[places_T]
    return positives_T, places_T + 1 - positives_T
