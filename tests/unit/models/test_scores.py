"""Metrics by task, compared with numpy, torchmetrics and scikit-learn."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional import classification

from raydc.errors import SpecError
from raydc.features import Features, Numeric, Signature
from raydc.models import scores as scores_module
from raydc.models.scores import Scores, check_metrics

BLOCK_ROWS = 16


def features(task: str, classes: tuple[str, ...] = ("a", "b", "c")) -> Features:
    signature = Signature(
        "vector", (1,), "float32", (), (), task, () if task == "regression" else classes
    )  # type: ignore[arg-type]
    return Features(
        signature, "y", {"x": Numeric(0.0, 0.0, 1.0)}, target_mean=50.0, target_scale=10.0
    )


def of_rows(
    made: Features, outputs: Tensor, targets: Tensor, names: tuple[str, ...] | None = None
) -> Scores:
    scores = Scores(made, names, len(targets))
    for block, start in enumerate(range(0, len(targets), BLOCK_ROWS)):
        rows = slice(start, start + BLOCK_ROWS)
        scores.update(outputs[rows], targets[rows], block)
    return scores


def random_rows(num_classes: int, num_rows: int = 100) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes, num_rows)
    logits = rng.normal(size=(num_rows, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels)


def random_labels(num_rows: int, num_labels: int = 3) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(num_labels)
    marks = (rng.random((num_rows, num_labels)) < 0.3).astype(np.uint8)
    logits = rng.normal(size=marks.shape) + 2.0 * marks - 1.0
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(marks)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_every_score_of_labels_equals_torchmetrics_and_scikit_learn(num_labels: int) -> None:
    logits, marks = random_labels(100, num_labels)
    found = of_rows(features("multilabel", tuple("abc")[:num_labels]), logits, marks).compute()
    scores, called = logits.double().sigmoid(), (logits >= 0).numpy()
    plain = {"num_labels": num_labels}
    expected = {
        "loss": torch.nn.functional.binary_cross_entropy(scores, marks.double()),
        "accuracy": classification.multilabel_accuracy(logits, marks, average="micro", **plain),
        "exact_match": sklearn_metrics.accuracy_score(marks, called),
        "auroc": classification.multilabel_auroc(scores, marks.long(), **plain),
        "auprc": classification.multilabel_average_precision(scores, marks.long(), **plain),
    }
    for name, score in (
        ("f1", classification.multilabel_f1_score),
        ("precision", classification.multilabel_precision),
        ("recall", classification.multilabel_recall),
    ):
        expected[name] = score(logits, marks, average="macro", **plain)
        expected[f"{name}_micro"] = score(logits, marks, average="micro", **plain)
        if name != "recall":
            expected[f"{name}_weighted"] = score(logits, marks, average="weighted", **plain)
    assert found.reasons == {}
    assert found.values == pytest.approx({name: float(v) for name, v in expected.items()}, abs=1e-6)


def test_scores_by_label_equal_scikit_learn() -> None:
    logits, marks = random_labels(100)
    scores = of_rows(features("multilabel"), logits, marks)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        marks, (logits >= 0).numpy()
    )
    assert list(scores.support.values()) == support.tolist()
    for place, name in enumerate("abc"):
        assert scores.by_class()[name].values == pytest.approx(
            {
                "precision": precision[place],
                "recall": recall[place],
                "f1": f1[place],
                "auroc": sklearn_metrics.roc_auc_score(marks[:, place], logits[:, place]),
                "auprc": sklearn_metrics.average_precision_score(marks[:, place], logits[:, place]),
            },
            abs=1e-6,
        )


def test_a_label_that_is_never_right_counts_as_0_and_has_its_reason() -> None:
    logits, marks = torch.tensor([[1.0, -1.0, -1.0]] * 4), torch.zeros(4, 3, dtype=torch.uint8)
    marks[:, 0] = 1
    scores = of_rows(features("multilabel"), logits, marks)
    found = scores.compute()
    assert (found.values["f1"], found.values["f1_micro"]) == (pytest.approx(1 / 3), 1.0)
    assert found.reasons == {"auroc": "every row has it"}
    assert scores.by_class()["b"].reasons["f1"] == "it has no rows and is never predicted"
    none = of_rows(features("multilabel"), logits, torch.zeros_like(marks)).compute()
    assert none.reasons["f1_weighted"] == "no row has a label"
    assert none.values["exact_match"] == 0.0


def test_a_perplexity_beyond_all_numbers_has_its_reason() -> None:
    logits = torch.tensor([[0.0, 2000.0, 0.0]])
    found = of_rows(features("classification"), logits, torch.tensor([0]), ("perplexity",))
    assert found.compute().reasons == {"perplexity": "it is beyond all numbers"}


@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_score_of_a_classification_equals_torchmetrics(num_classes: int) -> None:
    logits, labels = random_rows(num_classes)
    found = of_rows(
        features("classification", tuple("abc")[:num_classes]), logits, labels
    ).compute()
    scores = logits.double().softmax(1)
    macro = {"num_classes": num_classes, "average": "macro"}
    micro = {"num_classes": num_classes, "average": "micro"}
    expected = {
        "loss": torch.nn.functional.cross_entropy(logits.double(), labels),
        "accuracy": classification.multiclass_accuracy(logits, labels, **micro),
        "f1": classification.multiclass_f1_score(logits, labels, **macro),
        "f1_micro": classification.multiclass_f1_score(logits, labels, **micro),
        "precision": classification.multiclass_precision(logits, labels, **macro),
        "precision_micro": classification.multiclass_precision(logits, labels, **micro),
        "recall": classification.multiclass_recall(logits, labels, **macro),
        "recall_micro": classification.multiclass_recall(logits, labels, **micro),
        "f1_weighted": classification.multiclass_f1_score(
            logits, labels, num_classes, average="weighted"
        ),
        "precision_weighted": classification.multiclass_precision(
            logits, labels, num_classes, average="weighted"
        ),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, logits.argmax(1)),
        "perplexity": torch.nn.functional.cross_entropy(logits.double(), labels).exp(),
        "auroc": classification.multiclass_auroc(scores, labels, num_classes),
        "auprc": classification.multiclass_average_precision(scores, labels, num_classes)
        if num_classes > 2
        else classification.binary_average_precision(scores[:, 1], labels),
        "ece": classification.multiclass_calibration_error(scores, labels, num_classes, n_bins=15),
    }
    assert found.reasons == {}
    assert found.values == pytest.approx({name: float(v) for name, v in expected.items()}, abs=1e-6)


def test_scores_by_class_equal_scikit_learn() -> None:
    logits, labels = random_rows(3)
    by_class = of_rows(features("classification"), logits, labels).by_class()
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels, logits.argmax(1)
    )
    scores = logits.double().softmax(1)
    for position, name in enumerate("abc"):
        is_it = labels == position
        assert by_class[name].values == pytest.approx(
            {
                "precision": precision[position],
                "recall": recall[position],
                "f1": f1[position],
                "auroc": sklearn_metrics.roc_auc_score(is_it, scores[:, position]),
                "auprc": sklearn_metrics.average_precision_score(is_it, scores[:, position]),
            },
            abs=1e-6,
        )


def share(ranks: list[Scores], num_rows: int) -> None:
    """Does to the first rank what an all-reduce would do to all of them."""
    given: list[list[Tensor]] = [[] for _ in ranks]
    for rank, mine in zip(ranks, given, strict=True):

        def record(tensor: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(tensor)
            return tensor

        copy.deepcopy(rank).share(record, num_rows, BLOCK_ROWS)
    sums = iter([torch.stack(parts).sum(0) for parts in zip(*given, strict=True)])
    ranks[0].share(lambda _: next(sums), num_rows, BLOCK_ROWS)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_the_digits_do_not_depend_on_who_has_which_rows(task: str, world_size: int) -> None:
    made, (outputs, targets) = features(task), random_rows(3, 90)
    if task == "multilabel":
        outputs, targets = random_labels(90)
    if task == "regression":
        outputs, targets = outputs[:, :1].contiguous(), outputs[:, 1].contiguous()
    ranks = [Scores(made, None, 90) for _ in range(world_size)]
    for block, start in enumerate(range(0, 90, BLOCK_ROWS)):
        rows = slice(start, start + BLOCK_ROWS)
        ranks[block % world_size].update(outputs[rows], targets[rows], block)
    share(ranks, 90)
    assert ranks[0].compute() == of_rows(made, outputs, targets).compute()


def test_scores_of_a_regression_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    outputs, targets = (
        rng.normal(size=(40, 1)).astype(np.float32),
        rng.normal(size=40).astype(np.float32),
    )
    found = of_rows(features("regression"), torch.from_numpy(outputs), torch.from_numpy(targets))
    values = found.compute().values
    errors = (outputs[:, 0].astype(np.float64) - targets) * 10
    raw = 50 + 10 * targets.astype(np.float64)
    assert values["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert values["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert values["r2"] == pytest.approx(sklearn_metrics.r2_score(raw, raw + errors), rel=1e-12)
    assert values["mape"] == pytest.approx((np.abs(errors) / np.abs(raw)).mean(), rel=1e-12)
    assert values["loss"] == pytest.approx((errors**2).mean() / 100, rel=1e-6)


def test_scores_that_are_not_defined_are_none_with_a_reason() -> None:
    one = of_rows(features("regression"), torch.zeros(1, 1), torch.full((1,), -5.0)).compute()
    assert one.values["r2"] is None
    assert one.values["mape"] is None
    assert one.reasons == {
        "r2": "fewer than two rows have no variance",
        "mape": "1 target(s) are 0",
    }
    equal = of_rows(features("regression"), torch.zeros(9, 1), torch.full((9,), 0.3)).compute()
    assert equal.reasons == {"r2": "all targets are equal"}
    logits = torch.zeros(4, 3)
    only_a = of_rows(features("classification"), logits, torch.zeros(4, dtype=torch.int64))
    assert only_a.compute().reasons == {"auroc": "no other class has rows"}
    assert only_a.by_class()["b"].reasons == {
        "precision": "it is never predicted",
        "recall": "it has no rows",
        "f1": "it has no rows and is never predicted",
        "auroc": "it has no rows",
        "auprc": "it has no rows",
    }


def test_scores_of_a_model_that_has_diverged_are_none() -> None:
    outputs, labels = torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0])
    found = of_rows(features("classification"), outputs, labels).compute()
    assert {"loss", "perplexity", "auroc", "auprc", "ece"} == found.reasons.keys()
    big = torch.tensor([[math.inf], [-math.inf], [1.0]])
    found = of_rows(features("regression"), big, torch.zeros(3)).compute()
    assert {"loss", "rmse", "mae", "r2"} <= found.reasons.keys()


def test_curves_of_too_many_rows_are_refused_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "MAX_SCORES", 150)
    made, (logits, labels) = features("classification"), random_rows(3, 51)
    found = of_rows(made, logits, labels)
    assert not found.keeps_scores
    assert found.compute().reasons.keys() == {"auroc", "auprc", "ece"}
    check_metrics(["auroc", "f1"], made, 50)
    check_metrics(["accuracy", "f1"], made, 51)
    with pytest.raises(SpecError, match="auroc: it needs the scores of all rows"):
        check_metrics(["f1", "auroc"], made, 51)
