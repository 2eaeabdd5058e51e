"""Section `model`: the network to train. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.base import Count, Fraction, Section


class ModelSection(Section):
    """Fields and methods that all forms of section `model` share."""

    def without_weights(self) -> Self:
        """This section without pretrained weights, to build a network whose weights are set later.

        Building it downloads nothing.
        """
        return self


class Linear(ModelSection):
    """One linear layer: logistic or linear regression."""

    name: Literal["linear"]


# Layers of an `mlp`, blocks of a `cnn`.
DEFAULT_DEPTH = 2
DEFAULT_MLP_WIDTH = 256
DEFAULT_CNN_WIDTH = 32


class Mlp(ModelSection):
    """A fully connected network: `hidden` widths, or `depth` layers of `width`."""

    name: Literal["mlp"]
    hidden: list[Count] | None = Field(
        None, min_length=1, description="Widths of the hidden layers."
    )
    depth: Count | None = Field(
        None, description=f"Number of hidden layers (default {DEFAULT_DEPTH})."
    )
    width: Count | None = Field(
        None, description=f"Width of each hidden layer (default {DEFAULT_MLP_WIDTH})."
    )
    dropout: Fraction = Field(0.0, description="Dropout after each hidden layer.")

    @model_validator(mode="after")
    def _one_form(self) -> Mlp:
        if self.hidden is not None and (self.depth is not None or self.width is not None):
            raise ValueError("give hidden, or depth and width, not both")
        return self

    @property
    def widths(self) -> list[int]:
        """Width of each hidden layer."""
        return self.hidden or [self.width or DEFAULT_MLP_WIDTH] * (self.depth or DEFAULT_DEPTH)


class Cnn(ModelSection):
    """Blocks of 3x3 convolution, ReLU and 2x2 max pooling, then one hidden layer."""

    name: Literal["cnn"]
    channels: list[Count] | None = Field(None, min_length=1, description="Channels of each block.")
    depth: Count | None = Field(None, description=f"Number of blocks (default {DEFAULT_DEPTH}).")
    width: Count | None = Field(
        None,
        description="Channels of the first block; each block doubles them (default "
        f"{DEFAULT_CNN_WIDTH}).",
    )
    hidden: Count = Field(128, description="Width of the hidden layer.")
    batch_norm: bool = Field(False, description="Batch normalisation after each convolution.")
    dropout: Fraction = Field(0.0, description="Dropout before the last layer.")

    @model_validator(mode="after")
    def _one_form(self) -> Cnn:
        if self.channels is not None and (self.depth is not None or self.width is not None):
            raise ValueError("give channels, or depth and width, not both")
        return self

    @property
    def block_channels(self) -> list[int]:
        """Channels of each block."""
        first, depth = self.width or DEFAULT_CNN_WIDTH, self.depth or DEFAULT_DEPTH
        # Each block halves height and width, so its work stays about the same.
        return self.channels or [first << block for block in range(depth)]


class Torchvision(ModelSection):
    """Any classification model of torchvision, by its name there."""

    name: str = Field(
        description="A torchvision model by its name there: resnet18, mobilenet_v3_small, ..."
    )
    weights: str | None = Field(
        None,
        description="Pretrained weights to start from, such as DEFAULT; torchvision downloads "
        "them.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of the model's constructor."
    )

    def without_weights(self) -> Self:
        """This section without pretrained weights; its network has the same shape."""
        return self.model_copy(update={"weights": None})


class Builder(ModelSection):
    """A network that a function of the user's own package builds."""

    builder: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`my_package.my_module:function`, called with the signature and `arguments`; "
        "returns a torch.nn.Module.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the function."
    )


def model_kind(value: Any) -> str:
    """Names the member of `Model` that a mapping describes."""
    if isinstance(value, Section):
        return type(value).__name__.lower()
    if isinstance(value, dict) and "builder" in value:
        return "builder"
    # Any other name is looked up in torchvision, which knows whether it exists.
    name = value.get("name") if isinstance(value, dict) else None
    return name if name in ("linear", "mlp", "cnn") else "torchvision"


Model = Annotated[
    Annotated[Linear, Tag("linear")]
    | Annotated[Mlp, Tag("mlp")]
    | Annotated[Cnn, Tag("cnn")]
    | Annotated[Torchvision, Tag("torchvision")]
    | Annotated[Builder, Tag("builder")],
    Discriminator(model_kind),
]
