"""Scales, ticks and texts of numbers for charts. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Numbers in this range are written without an exponent.
_PLAIN = (1e-3, 1e6)
_UNITS = ((1e6, "M"), (1e3, "k"))
_MOST_UNIT = 1e10


def number_text(value: float | None) -> str:
    """A number with four digits for people; a dash for None or a number that is not finite."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size and not _PLAIN[0] <= size < _PLAIN[1]:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Axis:
    """A range of numbers along one side of a chart.

    Attributes:
        low: Number at the start of the axis.
        high: Number at the end of the axis; above `low`.
        is_log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    is_log: bool = False

    @classmethod
    def over(cls, numbers: Sequence[float], may_be_log: bool = False) -> Axis:
        """An axis that holds some numbers and ends at round ones."""
        finite = [number for number in numbers if math.isfinite(number)]
        if not finite:
            return cls(0.0, 1.0)
        low, high = min(finite), max(finite)
        if may_be_log and low > 0 and high / low > 50:
            return cls(low, high, True)
        if low == high:
            # An axis needs a length, also for a single number.
            pad = abs(low) / 2 or 0.5
            return cls(low - pad, high + pad)
        step = _step(high - low)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step)

    def place(self, number: float) -> float:
        """Where a number lies, from 0 at the start to 1 at the end."""
        if self.is_log:
            span = math.log(self.high / self.low)
            return math.log(max(number, self.low) / self.low) / span
        return (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        if self.is_log:
            return self._log_ticks()
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first
        return [round((first + index) * step, 12) for index in range(count + 1)]

    def _log_ticks(self) -> list[float]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if len(exponents) < 3 else (1,)
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        return [one for one in found if self.low <= one <= self.high]


def _step(span: float) -> float:
    """A round distance between ticks, of which four to eight fit into a range."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / rough)))


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Texts of ticks, all with the same unit and number of decimals."""
    if not ticks:
        return []
    greatest = max(map(abs, ticks))
    if greatest >= _MOST_UNIT or (greatest and greatest < _PLAIN[0]):
        return [f"{tick:.3g}" for tick in ticks]
    # Six digits would be wider than the margin beside an axis.
    size, unit = next(((s, u) for s, u in _UNITS if greatest >= 100 * s), (1.0, ""))
    scaled = [tick / size for tick in ticks]
    for decimals in range(7):
        texts = [f"{tick:,.{decimals}f}" for tick in scaled]
        if all(
            abs(float(text.replace(",", "")) - tick) < 1e-9
            for text, tick in zip(texts, scaled, strict=True)
        ):
            return [f"{text}{unit}" for text in texts]
    return [f"{tick:.3g}" for tick in ticks]
