"""From the outputs of a classification to what a client reads. Pure; runs where a model answers.

Shape suffixes: B rows, K classes.
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


def name_classes(
    scores_BK: npt.NDArray[np.float64], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Makes an answer of each row: `{"label", "score", "scores": {class: probability}}`.

    Args:
        scores_BK: Probabilities [B, K].
        classes: Names of the K classes.
    """
    answers = []
    for best, scores_K in zip(scores_BK.argmax(axis=1).tolist(), scores_BK.tolist(), strict=True):
        scores = dict(zip(classes, scores_K, strict=True))
        answers.append({"label": classes[best], "score": scores_K[best], "scores": scores})
    return answers
