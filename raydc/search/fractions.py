"""Points of a search space as rows of numbers, for a model of the metric. Pure.

A row has a fraction of [0, 1) for each domain, also for those inside sections that a point does not
have. `spread` makes a value of a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydc.search.point import Choose, Space, all_domains, is_ordered, spread
from raydc.spec.space import Domain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# The largest fraction below 1.
_LAST = 1.0 - 2.0**-53


class Fractions:
    """Rows of fractions, and what they look like to a model.

    Args:
        space: Domains by spec path.

    Attributes:
        num_domains: Numbers of a row.
    """

    def __init__(self, space: Space) -> None:
        self._domains = all_domains(space)
        self.num_domains = len(self._domains)
        self._places = {name: place for place, name in enumerate(self._domains)}
        self._parents = {name: _parent(name, self._domains) for name in self._domains}

    def row(self, numbers: Mapping[str, Any]) -> list[float]:
        """The row of a point; `choice` makes the same point of it.

        Args:
            numbers: What was drawn of each domain, by name; others are in the middle.
        """
        return [
            _fraction(domain, numbers[name]) if name in numbers else 0.5
            for name, domain in self._domains.items()
        ]

    def choice(self, row: Sequence[float]) -> Choose:
        """What draws the point of a row, for `make_point`."""
        return lambda name, domain: spread(domain, row[self._places[name]])

    def encode(self, rows: Floats) -> Floats:
        """Coordinates of points, between 0 and 1.

        A number has one, by its place in the range, with the logarithm where the domain has it. A
        list without an order has one for each value. What a point does not have is in the middle.

        Args:
            rows: Fractions by point and domain.

        Returns:
            Coordinates by point.
        """
        import numpy as np

        columns: list[Floats] = []
        has: dict[str, Any] = {}
        for (name, domain), fractions in zip(self._domains.items(), rows.T, strict=True):
            parent = self._parents[name]
            has[name] = np.ones(len(rows), bool)
            if parent is not None:
                above, place = parent
                size = len(self._domains[above].values or ())
                drawn = (rows[:, self._places[above]] * size).astype(int)
                has[name] = has[above] & (drawn == place)
            if domain.values is not None and not is_ordered(domain):
                size = len(domain.values)
                one_hot = np.eye(size)[(fractions * size).astype(int)]
                # Two values are as far from each other as the two ends of a range.
                columns += [column / math.sqrt(2) for column in (one_hot * has[name][:, None]).T]
            else:
                columns.append(np.where(has[name], _snap(domain, fractions), 0.5))
        return np.stack(columns, axis=1)


def _parent(name: str, domains: Mapping[str, Domain]) -> tuple[str, int] | None:
    """The domain inside one of whose values a domain is, and the place of that value."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "[" and name[:end] in domains:
            return name[:end], int(name[end + 1 : name.index("]", end)])
    return None


def _fraction(domain: Domain, number: Any) -> float:
    """A fraction of which `spread` makes this number, in the middle of those that there are."""
    if domain.values is not None:
        return (float(number) + 0.5) / len(domain.values)
    low, high = domain.bounds
    end = high + 1 if domain.is_whole else high
    middle = number + 0.5 if domain.is_whole else number
    if domain.is_logarithmic:
        # No quotient of both ends, which may be larger than any float.
        width = math.log(end) - math.log(low)
        found = (math.log(middle) - math.log(low)) / width if end > low else 0.5
    else:
        found = (middle - low) / (end - low) if end > low else 0.5
    return min(max(found, 0.0), _LAST)


def _snap(domain: Domain, fractions: Floats) -> Floats:
    """The fractions in the middle of those that make the same number."""
    import numpy as np

    if domain.values is not None:
        return (np.floor(fractions * len(domain.values)) + 0.5) / len(domain.values)
    low, high = domain.bounds
    if not domain.is_whole:
        return fractions
    if not domain.is_logarithmic:
        size = high + 1 - low
        return (np.floor(fractions * size) + 0.5) / size
    width = math.log((high + 1) / low)
    wholes = np.clip(np.floor(low * np.exp(fractions * width)), low, high)
    return np.log((wholes + 0.5) / low) / width
