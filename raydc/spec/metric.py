"""Names of the metrics of a model, and which way each of them improves. Pure.

The definitions are in `raydc.models.metric_values`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from raydc.spec.base import FunctionPath, name_kind

# The only definition of the names, by task and in the order in which they are shown. Besides them,
# every task has "loss". The first of a task is what `train.metric` defaults to.
SCORES = {
    "classification": (
        "accuracy",
        "f1",
        "f1_micro",
        "precision",
        "precision_micro",
        "recall",
        "recall_micro",
        "f1_weighted",
        "precision_weighted",
        "balanced_accuracy",
        "perplexity",
        "auroc",
        "auprc",
        "ece",
    ),
    "regression": ("rmse", "mae", "r2", "mape"),
    "multilabel": (
        "f1",
        "f1_micro",
        "f1_weighted",
        "precision",
        "precision_micro",
        "precision_weighted",
        "recall",
        "recall_micro",
        "accuracy",
        "exact_match",
        "auroc",
        "auprc",
    ),
    "language_modelling": ("perplexity",),
}
# Only for tasks whose answers are ranked by a number, and only if the spec groups rows.
RANKING = ("ndcg",)
RANKED_TASKS = ("classification", "regression")
ALL_SCORES = (*dict.fromkeys(name for names in SCORES.values() for name in names), *RANKING)
# What every epoch computes, besides the loss and what the spec names.
ALWAYS = {
    "classification": ("accuracy", "f1"),
    "regression": ("rmse", "mae", "r2"),
    "multilabel": ("f1", "f1_micro", "exact_match"),
    "language_modelling": ("perplexity",),
}
# These need the scores of all rows at once; the others are sums over rows.
OF_ALL_ROWS = frozenset({"auroc", "auprc", "ece", "ndcg"})
LOWER_IS_BETTER = frozenset({"loss", "rmse", "mae", "mape", "ece", "perplexity"})
# A type checker needs the names spelled out; a test compares them with the ones above.
MetricName = Literal[
    "accuracy",
    "f1",
    "f1_micro",
    "precision",
    "precision_micro",
    "recall",
    "recall_micro",
    "f1_weighted",
    "precision_weighted",
    "balanced_accuracy",
    "perplexity",
    "auroc",
    "auprc",
    "ece",
    "loss",
    "rmse",
    "mae",
    "r2",
    "mape",
    "exact_match",
    "ndcg",
]
Metric = Annotated[
    Annotated[MetricName, Tag("name")] | Annotated[FunctionPath, Tag("path")],
    Discriminator(name_kind),
]


def validation_names(task: str, wanted: list[Metric], metric: Metric) -> tuple[str, ...]:
    """Names of the metrics that an epoch computes besides the loss: own ones come last.

    Args:
        task: Task of the data set.
        wanted: `train.metrics` of the spec.
        metric: `train.metric`, which must be known to choose the best checkpoint.
    """
    named = {*ALWAYS[task], *wanted, metric}
    known = (*SCORES[task], *RANKING)
    return (*(name for name in known if name in named), *own_names(wanted, metric))


def known_names(task: str, query: str | None) -> tuple[str, ...]:
    """Names of all metrics of a task.

    Args:
        task: Task of the data set.
        query: Column that groups rows, `data.query`; without one, nothing is ranked.
    """
    is_ranked = query is not None and task in RANKED_TASKS
    return (*SCORES[task], *(RANKING if is_ranked else ()))


def own_names(wanted: list[Metric], metric: Metric | None) -> tuple[str, ...]:
    """Names of the metrics that are functions of the user's own, each once.

    Args:
        wanted: `train.metrics` of the spec.
        metric: `train.metric`.
    """
    return tuple(dict.fromkeys(name for name in (*wanted, metric or "") if ":" in name))
