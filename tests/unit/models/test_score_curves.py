"""Areas under curves and calibration: equal to scikit-learn and torchmetrics, with ties too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import binary_calibration_error

from raydc.models import score_curves

# A few distinct scores, so that many are equal, and some at the edges of bins.
SCORES = st.sampled_from([0.0, 1 / 15, 0.2, 0.25, 1 / 3, 0.5, 0.9, 1.0])
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({is_it for _, is_it in rows}) == 2
)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_areas_equal_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    scores, is_it = map(list, zip(*rows, strict=True))
    scores_N, is_it_N = torch.tensor(scores, dtype=torch.float64), torch.tensor(is_it)
    auroc = score_curves.area_under_roc(scores_N, is_it_N)
    assert auroc == pytest.approx(sklearn_metrics.roc_auc_score(is_it, scores), abs=1e-12)
    auprc = score_curves.average_precision(scores_N, is_it_N)
    assert auprc == pytest.approx(sklearn_metrics.average_precision_score(is_it, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_areas_are_the_same_bits_in_any_order_of_rows(rows: list[tuple[float, bool]]) -> None:
    found = []
    for ordered in (rows, sorted(rows)):
        scores, is_it = map(list, zip(*ordered, strict=True))
        given = torch.tensor(scores, dtype=torch.float64), torch.tensor(is_it)
        found.append((score_curves.area_under_roc(*given), score_curves.average_precision(*given)))
    assert found[0] == found[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.999), st.booleans()), min_size=1, max_size=60))
def test_calibration_equals_torchmetrics(rows: list[tuple[float, bool]]) -> None:
    scores, is_right = map(list, zip(*rows, strict=True))
    best_N, is_right_N = torch.tensor(scores, dtype=torch.float64), torch.tensor(is_right)
    found = score_curves.calibration_error(best_N, is_right_N)
    expected = binary_calibration_error(
        best_N, is_right_N.long(), score_curves.NUM_BINS, validate_args=False
    )
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_calibration_of_certain_rows_counts_in_the_last_bin() -> None:
    best_N = torch.tensor([1.0, 1.0, 0.95, 0.95], dtype=torch.float64)
    is_right_N = torch.tensor([True, True, False, True])
    # One bin: three of four are right, with a mean confidence of 0.975.
    assert score_curves.calibration_error(best_N, is_right_N) == pytest.approx(0.225)


def test_many_rows_overflow_nothing() -> None:
    num_rows = 1 << 24
    scores_N = torch.arange(num_rows, dtype=torch.float64)
    assert score_curves.area_under_roc(scores_N, scores_N % 2 == 1) == pytest.approx(0.5, abs=1e-6)
    assert score_curves.area_under_roc(scores_N, scores_N >= num_rows // 2) == 1.0
