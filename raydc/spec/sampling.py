"""Section `train.sampling` of a spec: how often the rows of each class occur in an epoch. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydc.spec.base import Section


class Sampling(Section):
    """Over- and undersampling by class, for a classification."""

    name: Literal["balanced", "oversample", "undersample"] = Field(
        description="Each class has as many rows in an epoch as a class has on average (balanced), "
        "as the largest has (oversample) or as the smallest has (undersample). Rows of a class "
        "occur equally often, or once more; which ones do changes with each epoch."
    )
    max_repeats: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        10.0, description="How often a row occurs in an epoch at most, on average over its class."
    )
