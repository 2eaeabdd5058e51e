"""Parallel coordinates as inline SVG: an axis for each searched field, a line for each trial. Pure.

Method: Inselberg (1985). The drawing has its natural width and scrolls on a narrow screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydc.report.axes import Axis, tick_texts
from raydc.report.markup import Markup, join, tag

_HEIGHT, _TOP, _BOTTOM = 300, 34, 24
# Units that one sign takes, about that of the page's font.
_SIGN = 6.6
_LEAST_GAP, _LONGEST_TEXT = 84, 22
# Fields that a trial does not have are on this part below the axis.
_BELOW = 26
_FAINTEST = 0.12


@dataclass(frozen=True)
class FieldAxis:
    """One vertical axis.

    Attributes:
        title: Its name, above it.
        axis: Range of its numbers; None for a list.
        values: Texts of a list, from the bottom; empty for numbers.
        is_flipped: Whether its smallest number is at the top.
    """

    title: str
    axis: Axis | None = None
    values: tuple[str, ...] = ()
    is_flipped: bool = False

    def place(self, number: float) -> float:
        """Where a number, or a place in the list, lies: 0 at the bottom to 1 at the top."""
        if self.axis is None:
            return (number + 0.5) / max(1, len(self.values))
        place = min(1.0, max(0.0, self.axis.place(number)))
        return 1.0 - place if self.is_flipped else place

    def ticks(self) -> list[tuple[float, str]]:
        """Numbers, or places in the list, with their texts."""
        if self.axis is None:
            return [(float(place), cut(text)) for place, text in enumerate(self.values)]
        numbers = self.axis.ticks()
        return list(zip(numbers, tick_texts(numbers), strict=True))


@dataclass(frozen=True)
class TrialLine:
    """One line.

    Attributes:
        text: What it says under the pointer.
        numbers: A number, or a place in the list, for each axis; None where there is none.
        strength: From 0 for the faintest line to 1.
        is_best: Whether it is drawn in a colour of its own.
    """

    text: str
    numbers: Sequence[float | None]
    strength: float
    is_best: bool = False


def cut(text: str) -> str:
    """A text that is short enough for an axis."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def parallel_chart(title: str, axes: Sequence[FieldAxis], lines: Sequence[TrialLine]) -> Markup:
    """Draws the lines over the axes; the last lines are in front.

    Args:
        title: What the chart shows; its heading, and its name for screen readers.
        axes: At least two, from left to right.
        lines: Each with a number for each axis.
    """
    is_missing = any(number is None for line in lines for number in line.numbers)
    height = _HEIGHT + (_BELOW if is_missing else 0)
    places, width = _spread(axes)

    def y(axis: FieldAxis, number: float | None) -> float:
        if number is None:
            return height - _BOTTOM
        return _HEIGHT - _BOTTOM - axis.place(number) * (_HEIGHT - _TOP - _BOTTOM)

    drawn = []
    for line in lines:
        numbers = zip(axes, places, line.numbers, strict=True)
        points = " ".join(f"{x:.1f},{y(axis, number):.1f}" for axis, x, number in numbers)
        opacity = 1.0 if line.is_best else _FAINTEST + (0.8 - _FAINTEST) * line.strength
        drawn.append(
            tag(
                "polyline",
                # Browsers show it under the pointer.
                tag("title", line.text),
                points=points,
                class_="line s1 best" if line.is_best else "line s0",
                stroke_opacity=f"{opacity:.2f}",
            )
        )
    frame = []
    for axis, x in zip(axes, places, strict=True):
        ends = {"y1": _TOP, "y2": _HEIGHT - _BOTTOM}
        frame.append(tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", **ends, class_="axis"))
        frame.append(
            tag("text", cut(axis.title), x=f"{x:.1f}", y=14, text_anchor="middle", class_="t")
        )
        for number, text in axis.ticks():
            at = y(axis, number)
            frame.append(
                tag("line", x1=f"{x - 4:.1f}", x2=f"{x:.1f}", y1=f"{at:.1f}", y2=f"{at:.1f}",
                    class_="axis")
            )  # fmt: skip
            # Lines cross the texts, which would be hard to read without a halo.
            frame.append(
                tag("text", text, x=f"{x - 7:.1f}", y=f"{at + 4:.1f}", text_anchor="end",
                    class_="halo")
            )  # fmt: skip
    if is_missing:
        frame.append(tag("text", "none", x=0, y=height - _BOTTOM + 4))
    said = f"{len(lines)} lines over {', '.join(axis.title for axis in axes)}"
    drawing = tag(
        "svg",
        tag("title", title),
        tag("desc", said),
        join(drawn, frame),
        viewBox=f"0 0 {width:.0f} {height}",
        width=f"{width:.0f}",
        height=height,
        role="img",
        class_="chart wide",
        aria_label=f"{title}. {said}",
    )
    # Focusable, because a keyboard can scroll only what has the focus.
    scrolled = tag("div", drawing, class_="scroll", tabindex="0")
    return tag("figure", tag("figcaption", title), scrolled)


def _spread(axes: Sequence[FieldAxis]) -> tuple[list[float], float]:
    """Places of the axes so that neither titles nor texts touch each other, and the width."""
    places: list[float] = []
    right = 0.0
    for index, axis in enumerate(axes):
        half = len(cut(axis.title)) * _SIGN / 2
        texts = max((len(text) for _, text in axis.ticks()), default=1) * _SIGN + 10
        place = right + max(half, texts)
        # Without room between axes, lines could not be told apart.
        place = max(place, places[-1] + _LEAST_GAP) if index else place + 30
        places.append(place)
        right = place + max(half, 4) + 12
    return places, right
