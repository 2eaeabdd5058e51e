"""Search domains of `sweep.space`: the values that a trial may try. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


def _check_range(bounds: list[float]) -> list[float]:
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ValueError("give [low, high] with low < high")
    # Draws take the width, which is infinite for the whole range of floats too.
    if not math.isfinite(bounds[1] - bounds[0]):
        raise ValueError("both ends of a range, and the distance between them, are finite numbers")
    return bounds


def _check_log_range(bounds: list[float]) -> list[float]:
    _check_range(bounds)
    if bounds[0] <= 0:
        raise ValueError("a logarithmic range needs low > 0")
    return bounds


def _check_whole(bounds: list[float]) -> list[float]:
    if any(bound != int(bound) for bound in bounds):
        raise ValueError("both ends of a range of whole numbers are whole numbers")
    return bounds


Range = Annotated[list[float], AfterValidator(_check_range)]
LogRange = Annotated[list[float], AfterValidator(_check_log_range)]
WholeRange = Annotated[Range, AfterValidator(_check_whole)]
WholeLogRange = Annotated[LogRange, AfterValidator(_check_whole)]


class Domain(BaseModel):
    """One search domain: exactly one of the fields. The names are Ray Tune's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    choice: list[Any] | None = Field(
        None,
        min_length=1,
        description="One of these values. A value that is a section, such as a whole `model`, may "
        "have domains in place of its own values: they are drawn only if that section is.",
    )
    grid: list[Any] | None = Field(
        None,
        min_length=1,
        description="Each of these values, in every combination with other grids. For search_alg "
        "random and grid.",
    )
    uniform: Range | None = Field(None, description="Uniform in [low, high].")
    loguniform: LogRange | None = Field(
        None, description="Uniform in the logarithm of [low, high]."
    )
    randint: WholeRange | None = Field(None, description="Whole numbers of [low, high).")
    lograndint: WholeLogRange | None = Field(
        None, description="Whole numbers of [low, high), uniform in their logarithm."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        # The names of the fields are the kinds, so a new domain needs no change here.
        if sum(getattr(self, kind) is not None for kind in type(self).model_fields) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        # A mistake inside a section is found here, with its place, and not when it is drawn.
        for number, value in enumerate(self.values or ()):
            for _ in _examples_of(value, f"[{number}]"):
                break
        return self

    @property
    def kind(self) -> str:
        """Name of the field that is given."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def values(self) -> list[Any] | None:
        """The values of `choice` or `grid`; None for a range."""
        return self.choice if self.choice is not None else self.grid

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of a range."""
        low, high = getattr(self, self.kind)
        # The upper end of whole numbers is exclusive, as in Ray Tune.
        return (int(low), int(high) - 1) if self.is_whole else (low, high)

    @property
    def is_whole(self) -> bool:
        """Whether a range has whole numbers only."""
        return self.randint is not None or self.lograndint is not None

    @property
    def is_logarithmic(self) -> bool:
        """Whether a range is uniform in the logarithm."""
        return self.loguniform is not None or self.lograndint is not None

    @property
    def num_points(self) -> int:
        """How many points a grid over this domain has; a range counts once."""
        return sum(_num_points(value) for value in self.values or (None,))

    def inner(self) -> Iterator[Domain]:
        """Yields this domain, and all that are inside its values."""
        yield self
        yield from (one for value in self.values or () for one in _inner_of(value))

    def examples(self) -> list[Any]:
        """Returns values to validate: all of a list, both ends of a range.

        Of a section with domains inside it comes once for each value of each of them.
        """
        if self.values is None:
            return list(self.bounds)
        return [example for value in self.values for example in _examples_of(value, "")]


def as_domain(value: Any, place: str = "") -> Domain | None:
    """The domain that a value inside a section is; None if it is a plain value.

    Args:
        value: A mapping is a domain if its only key is the name of one.
        place: Where the value is, for the message.

    Raises:
        ValueError: A domain that makes no sense.
    """
    if not isinstance(value, dict) or len(value) != 1 or not {*value} <= {*Domain.model_fields}:
        return None
    try:
        return Domain.model_validate(value)
    except ValidationError as error:
        message = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{place.lstrip('.')}: {message}") from None


def _examples_of(value: Any, place: str) -> Iterator[Any]:
    """A value with all domains inside it replaced: by their first value, or all but one of them."""
    if (domain := as_domain(value, place)) is not None:
        yield from domain.examples()
    elif isinstance(value, dict):
        inner = {key: list(_examples_of(one, f"{place}.{key}")) for key, one in value.items()}
        first = {key: examples[0] for key, examples in inner.items()}
        yield first
        for key, examples in inner.items():
            yield from ({**first, key: example} for example in examples[1:])
    else:
        yield value


def _inner_of(value: Any) -> Iterator[Domain]:
    if (domain := as_domain(value)) is not None:
        yield from domain.inner()
    elif isinstance(value, dict):
        yield from (one for inside in value.values() for one in _inner_of(inside))


def _num_points(value: Any) -> int:
    if (domain := as_domain(value)) is not None:
        return domain.num_points
    if isinstance(value, dict):
        return math.prod(_num_points(inside) for inside in value.values())
    return 1
