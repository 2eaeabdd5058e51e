"""Search domains of `sweep.space`: the values that a trial may try. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _check_range(bounds: list[float]) -> list[float]:
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ValueError("give [low, high] with low < high")
    return bounds


def _check_log_range(bounds: list[float]) -> list[float]:
    _check_range(bounds)
    if bounds[0] <= 0:
        raise ValueError("a logarithmic range needs low > 0")
    return bounds


Range = Annotated[list[float], AfterValidator(_check_range)]
LogRange = Annotated[list[float], AfterValidator(_check_log_range)]


class Domain(BaseModel):
    """One search domain: exactly one of the fields. The names are Ray Tune's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    choice: list[Any] | None = Field(
        None, min_length=1, description="One of these values, drawn at random."
    )
    grid: list[Any] | None = Field(
        None,
        min_length=1,
        description="Each of these values, in every combination with other grids.",
    )
    uniform: Range | None = Field(None, description="Uniform in [low, high].")
    loguniform: LogRange | None = Field(
        None, description="Uniform in the logarithm of [low, high]."
    )
    randint: Range | None = Field(None, description="Whole numbers of [low, high).")

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        # The names of the fields are the kinds, so a new domain needs no change here.
        if sum(getattr(self, kind) is not None for kind in type(self).model_fields) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        return self

    def examples(self) -> list[Any]:
        """Returns values to validate: all of a list, both ends of a range."""
        # The upper end of `randint` is exclusive, as in Ray Tune.
        if self.randint is not None:
            return [int(self.randint[0]), int(self.randint[1]) - 1]
        for kind in type(self).model_fields:
            values = getattr(self, kind)
            if values is not None:
                return list(values)
        return []
