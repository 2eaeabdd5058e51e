"""What all sections share: strictness, and the kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Strict: a wrong type or an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def named(value: Any) -> Any:
    """`optimizer: adam` is short for `optimizer: {name: adam}`."""
    return {"name": value} if isinstance(value, str) else value
