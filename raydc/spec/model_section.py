"""What all forms of section `model` share: weights, frozen layers, names of activations. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from raydc.spec.base import NotNegative, Positive, Section

ActivationName = Literal["relu", "leaky_relu", "silu", "gelu", "tanh"]
InitialisationName = Literal[
    "default", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal"
]
ACTIVATION_TEXT = "Activation between the layers."
INITIALISATION_TEXT = (
    "First weights, drawn from the seed of the spec; biases are 0. default: what torch draws, "
    "biases included."
)
# Name of all layers but the last in `freeze`.
BODY = "body"


def one_or_more(value: Any) -> Any:
    """Expands the short form of a list: `freeze: layer1` to `freeze: [layer1]`."""
    # Layers of a sequence are named by numbers.
    given = value if isinstance(value, list) else [value]
    return [str(one) if type(one) is int else one for one in given]


# A text with a slash or one of these endings is a path, not the name of weights in torchvision.
FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_SHA256 = r"^[0-9a-f]{64}$"


class Normalisation(Section):
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""

    mean: list[NotNegative] = Field(min_length=1, max_length=3, description="Mean of each channel.")
    std: list[Positive] = Field(
        min_length=1, max_length=3, description="Standard deviation of each channel."
    )

    @model_validator(mode="after")
    def _equally_many(self) -> Normalisation:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std must have one number for each channel")
        return self


def _normalisation_kind(value: Any) -> str:
    return "name" if isinstance(value, str) else "numbers"


class ModelSection(Section):
    """Fields and methods that all forms of section `model` share."""

    freeze: Annotated[list[str], BeforeValidator(one_or_more)] = Field(
        default_factory=list,
        description="Weights that training leaves as they are: `body` for all layers but the last, "
        "or names and patterns of layers or weights, such as `layer1` or `features.*.weight`. "
        "Batch normalisation in frozen layers keeps its statistics.",
    )
    weights: str | None = Field(
        None,
        description="Weights to start from: a safetensors or torch file of tensors, or the folder "
        "of a registered version, that every worker reaches; for a torchvision model also a name "
        "of its weights there, such as DEFAULT, which are downloaded. If the number of classes "
        "differs, the last layer starts anew.",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=_SHA256,
        description="sha256 of the file of weights. A run notes it when it begins, and refuses "
        "a different file.",
    )
    normalisation: (
        Annotated[
            Annotated[Literal["data"], Tag("name")] | Annotated[Normalisation, Tag("numbers")],
            Discriminator(_normalisation_kind),
        ]
        | None
    ) = Field(
        None,
        description="Normalisation of images: `data` for that of the data set, or mean and std. "
        "Default: that of the weights, where torchvision or a model of raydc brings it; else that "
        "of the data set.",
    )

    @property
    def weights_file(self) -> str | None:
        """Path of the file or folder of weights; None if there is none."""
        return self.weights

    def without_weights(self) -> Self:
        """This section without weights, to build a network whose weights are set later.

        Building it reads and downloads nothing.
        """
        return self.model_copy(update={"weights": None, "weights_sha256": None})
