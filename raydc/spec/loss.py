"""Section `train.loss` of a spec: what training minimises. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.base import Fraction, FunctionPath, NotNegative, Positive, Section, name_kind

# The only definition of the names of losses, by task. The first of a task is its default.
LOSSES = {
    "classification": ("cross_entropy", "focal"),
    "regression": ("mse", "mae", "huber"),
    "multilabel": ("binary_cross_entropy", "focal"),
    # Always the cross entropy of each token.
    "language_modelling": (),
}
# Fields that only some losses read.
_READERS = {
    "class_weights": (*LOSSES["classification"], "binary_cross_entropy"),
    "positive_weights": LOSSES["multilabel"],
    "label_smoothing": ("cross_entropy", "binary_cross_entropy"),
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


LossName = Annotated[
    Annotated[
        Literal["cross_entropy", "focal", "mse", "mae", "huber", "binary_cross_entropy"],
        Tag("name"),
    ]
    | Annotated[FunctionPath, Tag("path")],
    Discriminator(name_kind),
]


class Loss(Section):
    """What training minimises: the mean of this over the rows of a step."""

    name: LossName = Field(
        description="A name, or `my_package.my_module:function`: called with the raw outputs "
        "[B, K], the targets [B] and `arguments`, it returns the loss of each row, [B].",
    )
    arguments: dict[str, Any] = Field(
        {}, description="Keyword arguments of a function of your own."
    )
    class_weights: ClassWeights | None = Field(
        None,
        description="Factor of each row's loss by its class: a number for each class by name, 1 "
        "for those that are left out; or `balanced`, which gives each class the same total. For a "
        "classification; of labels, a number for each, by which its part of the loss counts.",
    )
    positive_weights: ClassWeights | None = Field(
        None,
        description="Factor of the loss where a row has a label, by label, 1 for those that are "
        "left out; or `balanced`: rows without the label by rows with it. For task: multilabel.",
    )
    label_smoothing: Fraction = Field(
        0.0,
        description="Part of the target that is spread evenly over all classes, or over having a "
        "label and not: for cross_entropy and binary_cross_entropy.",
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
        if self.arguments and ":" not in self.name:
            raise ValueError(f"arguments are for a function of your own, not for {self.name}")
        return self
