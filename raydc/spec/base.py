"""Base class and number types of all sections of a spec. Pure; used in every process."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# Half open: a fraction of 1 would leave nothing for the rest of the rows.
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# Layers are built one by one: a slip of the keyboard would build them for hours.
Depth = Annotated[int, Field(ge=1, le=10_000)]

# A function of the user's own package, `my_package.my_module:function`.
FunctionPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


def name_kind(value: Any) -> str:
    """Tells the name of something built in from the path of a user's function, by its colon."""
    return "path" if isinstance(value, str) and ":" in value else "name"


class Section(BaseModel):
    """Base of all sections: a wrong type or an unknown key is an error."""

    # Strict, since "3" for 3 hides a typing error; frozen, since a spec is hashed into checkpoints.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def named(value: Any) -> Any:
    """Expands the short form `optimizer: adam` to `optimizer: {name: adam}`."""
    return {"name": value} if isinstance(value, str) else value
