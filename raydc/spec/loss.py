"""Section `train.loss` of a spec: what training minimises. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.base import Fraction, NotNegative, Positive, Section

# The only definition of the names of losses, by task. The first of a task is its default.
LOSSES = {"classification": ("cross_entropy", "focal"), "regression": ("mse", "mae", "huber")}
# Fields that only some losses read.
_READERS = {
    "class_weights": LOSSES["classification"],
    "label_smoothing": ("cross_entropy",),
    "gamma": ("focal",),
    "delta": ("huber",),
}


def _weights_kind(value: Any) -> str:
    return "name" if isinstance(value, str) else "numbers"


# With tags, an error is about the member of the union that is meant.
ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("name")] | Annotated[dict[str, Positive], Tag("numbers")],
    Discriminator(_weights_kind),
]


class Loss(Section):
    """What training minimises: the mean of this over the rows of a step."""

    name: Literal["cross_entropy", "focal", "mse", "mae", "huber"]
    class_weights: ClassWeights | None = Field(
        None,
        description="Factor of each row's loss by its class: a number for each class by name, 1 "
        "for those that are left out; or `balanced`, which gives each class the same total. For a "
        "classification.",
    )
    label_smoothing: Fraction = Field(
        0.0,
        description="Part of the target that is spread evenly over all classes: for cross_entropy.",
    )
    gamma: NotNegative = Field(
        2.0, description="How much rows that are predicted well count less: for focal."
    )
    delta: Positive = Field(
        1.0,
        description="Error from which on the loss grows linearly, in standard deviations of the "
        "target: for huber.",
    )

    @model_validator(mode="after")
    def _only_what_is_read(self) -> Loss:
        for field, readers in _READERS.items():
            # A stored spec has all fields, so that one with its default value says nothing.
            is_given = getattr(self, field) != type(self).model_fields[field].default
            if is_given and self.name not in readers:
                raise ValueError(f"{field} is for {' and '.join(readers)}, not for {self.name}")
        return self
