"""From the outputs of classes or labels to what a client reads. Pure; where a model answers.

Shape suffixes: B rows, K classes or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def softmax(outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Turns outputs [B, K] into probabilities [B, K]."""
    # In float64 and row by row: an answer must not depend on the other rows of its batch.
    logits_BK = outputs_BK.astype(np.float64)
    powers_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    scores_BK: npt.NDArray[np.float64] = powers_BK / powers_BK.sum(axis=1, keepdims=True)
    return scores_BK


def choose(
    scores_BK: npt.NDArray[np.float64],
    classes: Sequence[str],
    threshold: tuple[str, float] | None,
) -> npt.NDArray[np.int64]:
    """Chooses a class for each row.

    Args:
        scores_BK: Probabilities [B, K].
        classes: Names of the K classes.
        threshold: One of two classes, and the probability from which on it is chosen; None chooses
            the most probable class.

    Returns:
        Class positions, int64 [B].
    """
    if threshold is None:
        best_B: npt.NDArray[np.int64] = scores_BK.argmax(axis=1)
        return best_B
    positive, least = classes.index(threshold[0]), threshold[1]
    return np.where(scores_BK[:, positive] >= least, positive, 1 - positive)


def name_classes(
    scores_BK: npt.NDArray[np.float64],
    classes: Sequence[str],
    threshold: tuple[str, float] | None,
) -> list[dict[str, Any]]:
    """Makes an answer of each row: `{"label", "score", "scores": {class: probability}}`.

    Args:
        scores_BK: Probabilities [B, K].
        classes: Names of the K classes.
        threshold: See `choose`.
    """
    answers = []
    chosen_B = choose(scores_BK, classes, threshold)
    for best, scores_K in zip(chosen_B.tolist(), scores_BK.tolist(), strict=True):
        scores = dict(zip(classes, scores_K, strict=True))
        answers.append({"label": classes[best], "score": scores_K[best], "scores": scores})
    return answers


# Score from which on a row has a label, where no other was chosen.
LABEL_THRESHOLD = 0.5


def sigmoid(outputs_BK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Turns outputs [B, K] into a probability of each label, [B, K]."""
    # This form neither overflows nor loses small probabilities.
    scores_BK: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -outputs_BK.astype(np.float64)))
    return scores_BK


def choose_labels(
    scores_BK: npt.NDArray[np.float64], thresholds: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Chooses the labels of each row.

    Args:
        scores_BK: Probabilities [B, K].
        thresholds: Probability of each of the K labels from which on it is chosen; empty for
            `LABEL_THRESHOLD`.

    Returns:
        uint8 [B, K], 1 for a label that is chosen.
    """
    least = np.array(thresholds or LABEL_THRESHOLD, dtype=np.float64)
    return np.asarray(scores_BK >= least).astype(np.uint8)


def name_labels(
    scores_BK: npt.NDArray[np.float64], classes: Sequence[str], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """Makes an answer of each row: `{"labels": [label, ...], "scores": {label: probability}}`.

    Args:
        scores_BK: Probabilities [B, K].
        classes: Names of the K labels.
        thresholds: See `choose_labels`.
    """
    answers = []
    chosen_BK = choose_labels(scores_BK, thresholds)
    for chosen_K, scores_K in zip(chosen_BK.tolist(), scores_BK.tolist(), strict=True):
        labels = [name for name, is_it in zip(classes, chosen_K, strict=True) if is_it]
        answers.append({"labels": labels, "scores": dict(zip(classes, scores_K, strict=True))})
    return answers
