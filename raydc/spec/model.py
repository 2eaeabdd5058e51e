"""Section `model`: what is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.base import Count, Fraction, Section


class Linear(Section):
    """One linear layer: logistic or linear regression."""

    name: Literal["linear"]


DEFAULT_DEPTH = 2
DEFAULT_MLP_WIDTH = 256
DEFAULT_CNN_WIDTH = 32


class Mlp(Section):
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


class Cnn(Section):
    """Blocks of 3x3 convolution, ReLU and 2x2 max pooling, then one hidden layer."""

    name: Literal["cnn"]
    channels: list[Count] | None = Field(None, min_length=1, description="Channels of each block.")
    depth: Count | None = Field(None, description=f"Number of blocks (default {DEFAULT_DEPTH}).")
    width: Count | None = Field(
        None,
        description=f"Channels of the first block, doubled by each next (default {DEFAULT_CNN_WIDTH}).",
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
        return self.channels or [first << block for block in range(depth)]


class Torchvision(Section):
    """Any classification model of torchvision, by its name there."""

    name: str = Field(
        description="linear, mlp, cnn, or a torchvision model: resnet18, mobilenet_v3_small, ..."
    )
    weights: str | None = Field(
        None, description="Pretrained weights to start from, such as DEFAULT (downloaded)."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the builder."
    )


class Builder(Section):
    """A user's own model."""

    builder: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`my_package.my_module:function`, called with the signature and `arguments`; "
        "returns a torch.nn.Module.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the function."
    )


def model_kind(value: Any) -> str:
    """Which member of `Model` a mapping means."""
    if isinstance(value, Section):
        return type(value).__name__.lower()
    if isinstance(value, dict) and "builder" in value:
        return "builder"
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
