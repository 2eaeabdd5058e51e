"""Forms of section `model` for windows of a series. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from raydc.spec.base import Count, Depth, Fraction
from raydc.spec.model_section import ModelSection

Normalise = Literal["none", "last", "window"]
NORMALISE_TEXT = (
    "What a forecast is relative to, so that the level of a series does not matter: `last` takes "
    "the last value of each column of the window from its past, and adds that of the target to the "
    "forecast; `window` also divides by the deviation in the window (RevIN). The windows must "
    "hold the past of the target."
)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("kernel must be odd: the average is centred on a step")
    return value


class LinearForecaster(ModelSection):
    """A linear layer from the past steps to the next ones (Zeng et al. 2023).

    `dlinear` splits the past into a moving average and the rest, with a layer for each; `nlinear`
    has one layer, relative to the last value.
    """

    name: Literal["dlinear", "nlinear"]
    kernel: Annotated[Count, AfterValidator(_odd)] = Field(
        25, description="Steps of the moving average of `dlinear`, an odd number."
    )
    normalise: Normalise | None = Field(
        None, description=NORMALISE_TEXT + " Default: `last` for nlinear, else `none`."
    )

    @property
    def way(self) -> Normalise:
        """What the forecast is relative to, with the default of the form."""
        return self.normalise or ("last" if self.name == "nlinear" else "none")


class TemporalConvolution(ModelSection):
    """Blocks of causal convolutions whose dilation doubles (Bai et al. 2018)."""

    name: Literal["tcn"]
    width: Count = Field(32, description="Channels of each block.")
    kernel: Annotated[int, Field(ge=2)] = Field(3, description="Steps of each convolution.")
    depth: Depth | None = Field(
        None, description="Number of blocks. Default: as few as see the whole window."
    )
    dropout: Fraction = Field(0.0, description="Dropout in each block.")
    normalise: Normalise = Field("last", description=NORMALISE_TEXT)
