"""The score from which on a row is called positive, chosen on validation rows. Pure.

Shape suffixes: N rows, K classes or labels, T thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raydc.errors import Problem, SpecError
from raydc.features import Features, Signature
from raydc.features.answers import LABEL_THRESHOLD
from raydc.models.own_scores import check_own_metric
from raydc.models.scores import MAX_SCORES, Scores, check_metrics
from raydc.spec.metric import own_names
from raydc.spec.resolved import ResolvedTrain
from raydc.spec.threshold import THRESHOLD, Threshold, threshold_of

_MOST_SHOWN = 20


def positive_class(section: Threshold, signature: Signature) -> str:
    """Name of the class that the threshold is about."""
    return section.positive or signature.classes[1]


def check_scores(train: ResolvedTrain, features: Features, num_rows: int) -> None:
    """Checks that metrics and threshold of a spec can be computed on its validation rows.

    Args:
        train: Section `train` of the spec.
        features: Features of the data set.
        num_rows: Number of validation rows.

    Raises:
        SpecError: They need the scores of more rows than are kept, the threshold does not fit the
            classes, or a metric of the user's own does not work.
    """
    check_metrics([*train.metrics, train.metric], features, num_rows)
    check_threshold(train.threshold, features.signature, num_rows)
    for name in own_names(train.metrics, train.metric):
        check_own_metric(name, features.signature)


def check_threshold(section: Threshold | None, signature: Signature, num_rows: int) -> None:
    """Checks what only the data set can tell about a threshold.

    Args:
        section: Section `train.threshold`; None for none.
        signature: Task and classes of the data set.
        num_rows: Number of validation rows.

    Raises:
        SpecError: There are not two classes, the positive one is none of them, or the validation
            rows are too many.
    """
    if section is None:
        return
    classes, path, message = signature.classes, "train.threshold", None
    is_multilabel = signature.task == "multilabel"
    if len(classes) != 2 and not is_multilabel:
        message = f"a threshold is for two classes; the data set has {len(classes)}"
    elif section.positive is not None and section.positive not in classes:
        path = "train.threshold.positive"
        message = f"{section.positive!r} is not one of the classes; they are {', '.join(classes)}"
    elif num_rows * len(classes) > MAX_SCORES:
        most = MAX_SCORES // len(classes)
        message = f"it needs the scores of all validation rows: at most {most:,}"
    if message is not None:
        raise SpecError([Problem("", path, message)])


def choose_thresholds(section: Threshold, found: Scores) -> dict[str, float | str]:
    """Chooses the thresholds of a model on rows that it has judged.

    Args:
        section: What is wanted.
        found: Scores of all rows, which are kept.

    Returns:
        By name, `threshold`, or `threshold:LABEL` for each label: the threshold, or the reason why
        there is none.
    """
    signature = found.features.signature
    scores_NK, expected_N = (tensor.numpy() for tensor in found.all_scores())
    if signature.task == "multilabel":
        marks_NK = expected_N.astype(bool)
        if not section.each_label:
            return {THRESHOLD: choose_threshold(section, scores_NK.ravel(), marks_NK.ravel())}
        return {
            threshold_of(label): choose_threshold(section, scores_NK[:, k], marks_NK[:, k])
            for k, label in enumerate(signature.classes)
        }
    positive = signature.classes.index(positive_class(section, signature))
    return {THRESHOLD: choose_threshold(section, scores_NK[:, positive], expected_N == positive)}


def with_thresholds(
    section: Threshold | None, features: Features, metrics: Mapping[str, float | None]
) -> Features:
    """Features with the thresholds of an epoch.

    Args:
        section: What was wanted; None for no threshold.
        features: Features of the data set.
        metrics: Metrics of the epoch, with what `choose_thresholds` has found.
    """
    if section is None:
        return features
    one, classes = metrics.get(THRESHOLD), features.signature.classes
    if features.has_label_sets:
        found = [metrics.get(threshold_of(label), one) for label in classes]
        if all(least is None for least in found):
            return features
        # A label that no validation row has keeps the default.
        least_K = tuple(LABEL_THRESHOLD if least is None else least for least in found)
        return replace(features, label_thresholds=least_K)
    if one is None:
        return features
    return replace(features, threshold=(positive_class(section, features.signature), one))


def describe_thresholds(features: Features) -> str | None:
    """What the thresholds of a model are, in words; None if it has none."""
    if features.threshold is not None:
        name, least = features.threshold
        return f"{name} from a score of {least:.6g} on"
    if not features.label_thresholds:
        return None
    both = zip(features.signature.classes, features.label_thresholds, strict=True)
    listed = ", ".join(f"{name} {least:.6g}" for name, least in itertools.islice(both, _MOST_SHOWN))
    more = len(features.label_thresholds) - _MOST_SHOWN
    return f"labels from these scores on: {listed}" + (f" and {more} more" if more > 0 else "")


def choose_threshold(
    section: Threshold, scores_N: npt.NDArray[np.float64], is_positive_N: npt.NDArray[np.bool_]
) -> float | str:
    """Chooses a threshold; a row is called positive if its score is not below it.

    Of equally good thresholds the highest is chosen. It lies in the middle between the score that
    it lets in and the next lower one, as far from both as can be.

    Args:
        section: What is wanted.
        scores_N: Scores of the positive class.
        is_positive_N: Whether each row is of it.

    Returns:
        The threshold; or the reason why there is none.
    """
    if not np.isfinite(scores_N).all():
        return "some scores are not numbers"
    if not is_positive_N.any():
        return "no validation row is of the positive class"
    order = np.argsort(-scores_N, kind="stable")
    ordered_N, hits_N = scores_N[order], np.cumsum(is_positive_N[order])
    # Equal scores pass together: only the last of them is a threshold.
    ends_T = np.flatnonzero(np.append(ordered_N[1:] != ordered_N[:-1], True))
    hits_T, called_T = hits_N[ends_T], ends_T + 1
    precision_T, recall_T = hits_T / called_T, hits_T / hits_N[-1]
    if section.name == "f1":
        best = int(np.argmax(2 * hits_T / (called_T + hits_N[-1])))
    else:
        wanted_T, other_T = (
            (precision_T, recall_T) if section.name == "precision" else (recall_T, precision_T)
        )
        enough_T = wanted_T >= (section.at_least or 0.0)
        if not enough_T.any():
            return f"no threshold reaches {section.name} {section.at_least:g}"
        best = int(np.argmax(np.where(enough_T, other_T, -1.0)))
    lowest = ordered_N[ends_T[best]]
    following = ordered_N[ends_T[best] + 1] if best + 1 < len(ends_T) else 0.0
    middle = (lowest + following) / 2
    # There is no float between two adjacent ones.
    return float(middle if following < middle else lowest)
