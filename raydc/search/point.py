"""A point of a search space, with domains inside sections, and points that need no results. Pure.

A domain inside a section that is one of the values of a choice is drawn only if that section is.
Domains are named by their path: `model[0].depth` is `depth` in the first value of `model`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raydc.spec.space import Domain, as_domain

# Draws one domain, by its name: a number of a range, or the place of a value in a list.
Choose = Callable[[str, Domain], Any]
Space = Mapping[str, Domain]


def make_point(space: Space, choose: Choose) -> dict[str, Any]:
    """Draws a point, in the order of the space.

    Args:
        space: Domains by spec path.
        choose: Draws a domain. It is asked for those that the values drawn so far have.

    Returns:
        Values by spec path.
    """
    return {path: _draw(path, domain, choose) for path, domain in space.items()}


def _draw(name: str, domain: Domain, choose: Choose) -> Any:
    drawn = choose(name, domain)
    if domain.values is None:
        return drawn
    return _fill(f"{name}[{drawn}]", domain.values[drawn], choose)


def _fill(name: str, value: Any, choose: Choose) -> Any:
    """A value of a list, with the domains inside it drawn."""
    if (domain := as_domain(value)) is not None:
        return _draw(name, domain, choose)
    if isinstance(value, dict):
        return {key: _fill(f"{name}.{key}", one, choose) for key, one in value.items()}
    return value


def all_domains(space: Space) -> dict[str, Domain]:
    """All domains of a space by name, with those inside sections."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Domain]]:
        domain = value if isinstance(value, Domain) else as_domain(value)
        if domain is not None:
            yield name, domain
            for place, one in enumerate(domain.values or ()):
                yield from walk(f"{name}[{place}]", one)
        elif isinstance(value, dict):
            for key, one in value.items():
                yield from walk(f"{name}.{key}", one)

    return {name: one for path, domain in space.items() for name, one in walk(path, domain)}


def is_ordered(domain: Domain) -> bool:
    """Whether a list has rising numbers: then values beside each other are alike."""
    values = domain.values or []
    numbers = [one for one in values if type(one) in (int, float)]
    return len(numbers) == len(values) and numbers == sorted({*numbers}) and len(values) > 1


def has_inner_domains(space: Space) -> bool:
    """Whether there are domains inside sections."""
    return len(all_domains(space)) > len(space)


def derive_seed(seed: int, number: int | str) -> int:
    """A seed of 32 bits for one draw, so that no draw depends on how many were made before it.

    Args:
        seed: Seed of the spec.
        number: Number of the sample, or a name.
    """
    return int(hashlib.sha256(f"{seed}:{number}".encode()).hexdigest()[:8], 16)


def spread(domain: Domain, fraction: float) -> Any:
    """The value of a domain at a fraction of its probability.

    Args:
        domain: A domain.
        fraction: A number of [0, 1).

    Returns:
        A number of a range, or the place of a value in a list.
    """
    if domain.values is not None:
        return int(fraction * len(domain.values))
    low, high = domain.bounds
    # Each whole number has the same part of the range.
    end = high + 1 if domain.is_whole else high
    if domain.is_logarithmic:
        value = math.exp(math.log(low) + fraction * (math.log(end) - math.log(low)))
    else:
        value = low + fraction * (end - low)
    value = math.floor(value) if domain.is_whole else value
    return min(max(value, low), high)


def random_point(space: Space, seed: int, number: int) -> dict[str, Any]:
    """A random point.

    Args:
        space: Domains by spec path.
        seed: Seed of the spec.
        number: Number of the sample.
    """
    generator = random.Random(derive_seed(seed, number))
    return make_point(space, lambda _, domain: spread(domain, generator.random()))


def grid_points(space: Space, seed: int) -> list[dict[str, Any]]:
    """All combinations of the values of choices, in a random order.

    So the first of them are spread over the grid.

    Args:
        space: Domains by spec path, without ranges.
        seed: Seed of the spec.
    """
    combinations = itertools.product(*(_every(domain) for domain in space.values()))
    points = [dict(zip(space, values, strict=True)) for values in combinations]
    random.Random(derive_seed(seed, "grid")).shuffle(points)
    return points


def _every(value: Any) -> list[Any]:
    """All values that a domain, or a value with domains inside it, can take."""
    domain = value if isinstance(value, Domain) else as_domain(value)
    if domain is not None:
        return [one for inside in domain.values or () for one in _every(inside)]
    if isinstance(value, dict):
        combinations = itertools.product(*(_every(inside) for inside in value.values()))
        return [dict(zip(value, values, strict=True)) for values in combinations]
    return [value]


def locate(space: Space, point: Mapping[str, Any]) -> dict[str, Any] | str:
    """Finds what would have to be drawn for a point.

    Args:
        space: Domains by spec path.
        point: Values by spec path, such as a point of another space.

    Returns:
        A number, or a place in a list, by the name of each domain; for a point that is not of the
        space why not.
    """
    numbers: dict[str, Any] = {}
    if others := sorted(set(point) - set(space)):
        return f"{others[0]} is not searched"
    for path, domain in space.items():
        if path not in point:
            return f"it has no {path}"
        if (found := _locate(path, domain, point[path])) is None:
            return f"{path} of {point[path]!r} is outside"
        numbers |= found
    return numbers


def _locate(name: str, template: Any, value: Any) -> dict[str, Any] | None:
    """What was drawn inside a value, by name; None if the value is not of its template."""
    domain = template if isinstance(template, Domain) else as_domain(template)
    if domain is None and isinstance(template, dict) and isinstance(value, Mapping):
        if set(template) != set(value):
            return None
        parts = [_locate(f"{name}.{key}", one, value[key]) for key, one in template.items()]
        return _merge(parts)
    if domain is None:
        # True is no 1 in a spec.
        return {} if template == value and type(template) is type(value) else None
    if domain.values is None:
        low, high = domain.bounds
        is_number = type(value) is int or (type(value) is float and not domain.is_whole)
        return {name: value} if is_number and low <= value <= high else None
    for place, one in enumerate(domain.values):
        if (found := _locate(f"{name}[{place}]", one, value)) is not None:
            return {name: place, **found}
    return None


def _merge(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    merged: dict[str, Any] = {}
    for part in parts:
        if part is None:
            return None
        merged |= part
    return merged


class SpreadPoints:
    """Points that are spread evenly: a Sobol sequence (Sobol', 1967), scrambled (Owen, 1998).

    All domains have a dimension, also those inside sections that a point does not have.

    Args:
        space: Domains by spec path.
        seed: Seed of the spec.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._places = {name: place for place, name in enumerate(all_domains(space))}
        self._rows: list[list[float]] = []

    def choice(self, number: int) -> Choose:
        """What draws a point, for `make_point`.

        Args:
            number: Number of the sample; the sequence has no end.
        """
        if number >= len(self._rows):
            self._extend(number + 1)
        row = self._rows[number]
        return lambda name, domain: spread(domain, row[self._places[name]])

    def _extend(self, length: int) -> None:
        import numpy as np
        from scipy.stats import qmc

        # A power of two, and the sequence from its start: its points do not depend on the length.
        exponent = max(6, (length - 1).bit_length())
        generator = np.random.default_rng(derive_seed(self._seed, "sobol"))
        sequence = qmc.Sobol(len(self._places), scramble=True, rng=generator)
        self._rows = sequence.random_base2(exponent).tolist()
