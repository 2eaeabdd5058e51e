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
# Most coordinates of lists without an order, one for each value. Beyond them the longest lists have
# one coordinate each, whose values are all as far from each other.
_MOST_COLUMNS = 64
# The code of a list that a point does not have.
_ABSENT = -1.0


class Fractions:
    """Rows of fractions, and what they look like to a model.

    Args:
        space: Domains by spec path.

    Attributes:
        num_domains: Numbers of a row.
        is_code: For each coordinate whether it is a code: two of them are the same or not.
    """

    def __init__(self, space: Space) -> None:
        self._domains = all_domains(space)
        self.num_domains = len(self._domains)
        self._places = {name: place for place, name in enumerate(self._domains)}
        self._parents = {name: _parent(name, self._domains) for name in self._domains}
        self._coded = _coded(self._domains)
        self.is_code: list[bool] = []
        for name, domain in self._domains.items():
            size = 1 if name in self._coded or not _is_unordered(domain) else _size(domain)
            self.is_code += [name in self._coded] * size

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
        """Coordinates of points, between 0 and 1 unless they are codes.

        A number has one, by its place in the range, with the logarithm where the domain has it. A
        list without an order has one for each value, and a long one the place of the value as a
        code. What a point does not have is in the middle.

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
            if name in self._coded:
                places = np.floor(fractions * _size(domain))
                columns.append(np.where(has[name], places, _ABSENT))
            elif _is_unordered(domain):
                size = _size(domain)
                one_hot = np.eye(size)[(fractions * size).astype(int)]
                # Two values are as far from each other as the two ends of a range.
                columns += [column / math.sqrt(2) for column in (one_hot * has[name][:, None]).T]
            else:
                columns.append(np.where(has[name], _snap(domain, fractions), 0.5))
        return np.stack(columns, axis=1)

    def squares(self, points: Floats, others: Floats) -> Floats:
        """Squared differences of the coordinates of points, by point, other point and coordinate.

        Args:
            points: Coordinates as `encode` gives them.
            others: The same of other points.
        """
        import numpy as np

        found: Floats = (points[:, None] - others[None]) ** 2
        for place in np.flatnonzero(self.is_code):
            one, other = points[:, None, place], others[None, :, place]
            # As far as two values with a coordinate each; what is not there is half as far.
            is_absent = (one == _ABSENT) | (other == _ABSENT)
            found[:, :, place] = np.where(one == other, 0.0, np.where(is_absent, 0.5, 1.0))
        return found


def _is_unordered(domain: Domain) -> bool:
    return domain.values is not None and not is_ordered(domain)


def _size(domain: Domain) -> int:
    return len(domain.values or ())


def _coded(domains: Mapping[str, Domain]) -> frozenset[str]:
    """Names of the lists without an order that have a code: the longest, as far as need be."""
    sizes = {name: _size(one) for name, one in domains.items() if _is_unordered(one)}
    num_columns, coded = sum(sizes.values()), []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if num_columns <= _MOST_COLUMNS:
            break
        num_columns -= sizes[name]
        coded.append(name)
    return frozenset(coded)


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
