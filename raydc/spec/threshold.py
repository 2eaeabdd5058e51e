"""Section `train.threshold`: the score from which on a row is of a class or has a label. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydc.spec.base import Section

# Name among the metrics of an epoch.
THRESHOLD = "threshold"


def threshold_of(label: str) -> str:
    """Name of the threshold of a label among the metrics of an epoch."""
    return f"{THRESHOLD}:{label}"


def is_threshold(name: str) -> bool:
    """Whether a metric of an epoch is a threshold, and no score."""
    return name == THRESHOLD or is_of_label(name)


def is_of_label(name: str) -> bool:
    """Whether a metric of an epoch is the threshold of a label, of which there may be many."""
    return name.startswith(f"{THRESHOLD}:")


class Threshold(Section):
    """How the threshold of two classes, or of each label, is chosen on the validation rows."""

    name: Literal["f1", "precision", "recall"] = Field(
        description="f1: the best F1 of the positive class. precision or recall: the best of the "
        "other one among the thresholds that reach `at_least`."
    )
    at_least: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="Wanted precision or recall of the positive class."
    )
    positive: str | None = Field(
        None, description="The positive class. Default: the second in the order of the classes."
    )

    each_label: bool = Field(
        True,
        description="Whether each label of a multilabel task has a threshold of its own, or all "
        "share one.",
    )

    @model_validator(mode="after")
    def _value_where_needed(self) -> Threshold:
        if self.name == "f1" and self.at_least is not None:
            raise ValueError("at_least is for precision and recall, not for f1")
        if self.name != "f1" and self.at_least is None:
            raise ValueError(f"{self.name} needs at_least, such as 0.9")
        return self
