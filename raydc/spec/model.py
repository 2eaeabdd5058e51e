"""Section `model`: the network to train. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.base import Count, Depth, Fraction, Section
from raydc.spec.forecast_models import LinearForecaster, TemporalConvolution
from raydc.spec.model_section import (
    ACTIVATION_TEXT,
    FILE_ENDINGS,
    INITIALISATION_TEXT,
    ActivationName,
    InitialisationName,
    ModelSection,
)
from raydc.spec.sequence_models import Decoder, HuggingFace, Recurrent, Transformer

Widths = list[Count]


def _default_hidden() -> Widths:
    return [128]


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
    depth: Depth | None = Field(
        None, description=f"Number of hidden layers (default {DEFAULT_DEPTH})."
    )
    width: Count | None = Field(
        None, description=f"Width of each hidden layer (default {DEFAULT_MLP_WIDTH})."
    )
    dropout: Fraction = Field(0.0, description="Dropout after each hidden layer.")
    activation: ActivationName = Field("relu", description=ACTIVATION_TEXT)
    initialisation: InitialisationName = Field("default", description=INITIALISATION_TEXT)

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
    """Blocks of 3x3 convolution, activation and 2x2 max pooling, then one hidden layer."""

    name: Literal["cnn"]
    channels: list[Count] | None = Field(None, min_length=1, description="Channels of each block.")
    depth: Depth | None = Field(None, description=f"Number of blocks (default {DEFAULT_DEPTH}).")
    width: Count | None = Field(
        None,
        description="Channels of the first block; each block doubles them (default "
        f"{DEFAULT_CNN_WIDTH}).",
    )
    hidden: Count = Field(128, description="Width of the hidden layer.")
    batch_norm: bool = Field(False, description="Batch normalisation after each convolution.")
    dropout: Fraction = Field(0.0, description="Dropout before the last layer.")
    activation: ActivationName = Field("relu", description=ACTIVATION_TEXT)
    initialisation: InitialisationName = Field("default", description=INITIALISATION_TEXT)

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


class Factorisation(ModelSection):
    """Products of the vectors of categories, such as those of a user and a film.

    A factorisation machine (Rendle, 2010); with two columns and one value, it is the biased matrix
    factorisation of recommenders.
    """

    name: Literal["factorisation"]
    width: Count = Field(32, description="Width of the vector of each category.")
    dropout: Fraction = Field(0.0, description="Dropout of the products.")


class TwoTowers(ModelSection):
    """A vector of each of two sides, such as users and items; their product is the answer."""

    name: Literal["two_towers"]
    user: list[str] = Field(
        min_length=1,
        description="Columns of the first tower, such as those of a user or a query.",
    )
    item: list[str] = Field(min_length=1, description="Columns of the second tower.")
    width: Count = Field(32, description="Width of the vectors that are multiplied.")
    hidden: list[Count] = Field(
        default_factory=list, description="Widths of the hidden layers of each tower."
    )
    similarity: Literal["dot", "cosine"] = Field(
        "dot", description="dot: the product of the vectors; cosine: that of their directions."
    )
    dropout: Fraction = Field(
        0.0,
        description="Dropout after each hidden layer; without hidden layers, of the terms of the "
        "product.",
    )
    activation: ActivationName = Field("relu", description=ACTIVATION_TEXT)

    @model_validator(mode="after")
    def _each_column_once(self) -> TwoTowers:
        names = [*self.user, *self.item]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"user and item name {twice!r} twice; a column is in one tower")
        return self


# Names that each select a form of the section.
_NAMED = (
    "linear",
    "mlp",
    "cnn",
    "transformer",
    "decoder",
    "huggingface",
    "factorisation",
    "two_towers",
    "fusion",
)
_SEVERAL = {
    **dict.fromkeys(("lstm", "gru"), "recurrent"),
    **dict.fromkeys(("dlinear", "nlinear"), "linearforecaster"),
    "tcn": "temporalconvolution",
}
OWN_MODELS = (*_NAMED, *_SEVERAL)


class Torchvision(ModelSection):
    """Any classification model of torchvision, by its name there."""

    name: str = Field(
        description="A torchvision model by its name there: resnet18, mobilenet_v3_small, ..."
    )
    input_size: Count | None = Field(
        None,
        description="Height and width to which the network resizes its images. Default: that of "
        "torchvision's weights; else as stored, or the next size that the network takes.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of the model's constructor."
    )

    @property
    def weights_file(self) -> str | None:
        """Path of the file or folder of weights; None if there is none, or a name is given."""
        given = self.weights
        is_file = given is not None and ("/" in given or given.endswith(FILE_ENDINGS))
        return given if is_file else None


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


def _image_kind(value: Any) -> str:
    kind = model_kind(value)
    return kind if kind == "cnn" else "torchvision"


def _sequence_kind(value: Any) -> str:
    kind = model_kind(value)
    return kind if kind == "transformer" else "recurrent"


class Fusion(ModelSection):
    """A network for each field of a row: images, texts and series, columns; one head for all."""

    name: Literal["fusion"]
    image: (
        Annotated[
            Annotated[Cnn, Tag("cnn")] | Annotated[Torchvision, Tag("torchvision")],
            Discriminator(_image_kind),
        ]
        | None
    ) = Field(
        None,
        description="Network of each column of images: a cnn or one of torchvision's, which may "
        "start with weights of torchvision's. Default: a cnn.",
    )
    sequence: (
        Annotated[
            Annotated[Recurrent, Tag("recurrent")] | Annotated[Transformer, Tag("transformer")],
            Discriminator(_sequence_kind),
        ]
        | None
    ) = Field(None, description="Network of each text or series. Default: a gru.")
    table: Widths | None = Field(
        None, description="Widths of the layers over numbers and categories. Default: [64]."
    )
    width: Count = Field(64, description="Width of the vector of an image.")
    hidden: Widths = Field(
        default_factory=_default_hidden, description="Widths of the hidden layers of the head."
    )
    dropout: Fraction = Field(0.0, description="Dropout after each hidden layer.")
    activation: ActivationName = Field("relu", description=ACTIVATION_TEXT)

    @model_validator(mode="after")
    def _whole_network(self) -> Fusion:
        if self.image is not None and self.image.weights_file is not None:
            raise ValueError("weights of a file are those of the whole network: model.weights")
        if self.image is not None and self.image.freeze:
            raise ValueError("layers of the whole network are frozen: model.freeze")
        return self

    def without_weights(self) -> Fusion:
        """This section without weights, those of its images included."""
        image = None if self.image is None else self.image.without_weights()
        return super().without_weights().model_copy(update={"image": image})


def model_kind(value: Any) -> str:
    """Names the member of `Model` that a mapping describes."""
    if isinstance(value, Section):
        return _KINDS.get(type(value), type(value).__name__.lower())
    if isinstance(value, dict) and "builder" in value:
        return "builder"
    # Any other name is looked up in torchvision, which knows whether it exists.
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(name, str) and name in _SEVERAL:
        return _SEVERAL[name]
    return name if name in _NAMED else "torchvision"


Model = Annotated[
    Annotated[Linear, Tag("linear")]
    | Annotated[Mlp, Tag("mlp")]
    | Annotated[Cnn, Tag("cnn")]
    | Annotated[Recurrent, Tag("recurrent")]
    | Annotated[Transformer, Tag("transformer")]
    | Annotated[Decoder, Tag("decoder")]
    | Annotated[HuggingFace, Tag("huggingface")]
    | Annotated[Factorisation, Tag("factorisation")]
    | Annotated[TwoTowers, Tag("two_towers")]
    | Annotated[Fusion, Tag("fusion")]
    | Annotated[LinearForecaster, Tag("linearforecaster")]
    | Annotated[TemporalConvolution, Tag("temporalconvolution")]
    | Annotated[Torchvision, Tag("torchvision")]
    | Annotated[Builder, Tag("builder")],
    Discriminator(model_kind),
]
_KINDS: dict[type[Section], str] = {TwoTowers: "two_towers"}
# Networks whose parts follow from the fields of a row, which only the data set knows.
OF_FIELDS = (
    Factorisation,
    Recurrent,
    Transformer,
    Decoder,
    HuggingFace,
    TwoTowers,
    Fusion,
    LinearForecaster,
    TemporalConvolution,
)
