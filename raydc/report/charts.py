"""Charts as inline SVG: lines, columns and bars. Pure.

Colours are variables of the page, so that a chart follows its light and dark style. Each series
also has its own dash pattern, for readers and printers that cannot tell the colours apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raydc.report.axes import Axis, number_text, tick_texts
from raydc.report.markup import Markup, join, tag

# Units of the drawing, about as wide as a narrow screen, so that its text is not scaled there.
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 44
_MAX_POINTS = 400
NUM_COLOURS = 8
_DASHES = ("none", "6 3", "2 2", "8 3 2 3")


@dataclass(frozen=True)
class Series:
    """A line or a set of points.

    Attributes:
        name: Name in the legend.
        x: Ascending positions of the points.
        y: Height of each point; one that is not finite leaves a gap.
        marks: Whether to draw a dot at each point.
        is_guide: Whether it is a reference such as a diagonal, which the legend leaves out.
        is_faint: Whether to draw a thin line, because the series is noisy.
        is_background: Whether to draw it grey and behind, as one of many, without a legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marks: bool = False
    is_guide: bool = False
    is_faint: bool = False
    is_background: bool = False

    @property
    def is_named(self) -> bool:
        """Whether it is in the legend, and has a colour."""
        return not self.is_guide and not self.is_background


def line_chart(
    title: str,
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    y_axis: Axis | None = None,
    x_axis: Axis | None = None,
) -> Markup:
    """A line chart with one or more series.

    Args:
        title: What the chart shows; its heading, and its name for screen readers.
        series: Lines to draw, at least one.
        x_title: Label of the horizontal axis.
        y_title: Label of the vertical axis.
        y_axis: Range of the vertical axis; None fits it to the lines.
        x_axis: Range of the horizontal axis; None fits it to the lines.
    """
    drawn = [_thinned(one) for one in series]
    xs = x_axis or Axis.over([x for one in drawn for x in one.x])
    ys = y_axis or Axis.over([y for one in drawn for y in one.y], may_be_log=True)
    lines = []
    number = 0
    for one in drawn:
        style = "guide" if one.is_guide else f"line s{number % NUM_COLOURS}"
        style += " faint" if one.is_faint else ""
        style = "back" if one.is_background else style
        dash = _DASHES[number % len(_DASHES)] if one.is_named else "4 4" if one.is_guide else "none"
        lines += _draw(one, xs, ys, style, dash)
        number += one.is_named
    label = f"{y_title} (log)" if ys.is_log else y_title
    named = [one for one in series if one.is_named]
    body = join(_frame(xs, ys, x_title, label), lines)
    said = "; ".join(map(_described, named))
    return _figure(title, body, said, _legend([one.name for one in named]))


def _draw(one: Series, xs: Axis, ys: Axis, style: str, dash: str) -> list[Markup]:
    points = [
        (_x(xs, x), _y(ys, y)) if math.isfinite(x) and math.isfinite(y) else None
        for x, y in zip(one.x, one.y, strict=True)
    ]
    parts = []
    for is_gap, group in itertools.groupby(points, key=lambda point: point is None):
        run = [] if is_gap else [point for point in group if point]
        if len(run) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(tag("polyline", points=path, class_=style, stroke_dasharray=dash))
        # A line of one point is invisible, so the point is marked.
        if run and (one.marks or len(run) == 1):
            parts += [
                tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_=f"{style} mark")
                for x, y in run
            ]
    return parts


def _described(one: Series) -> str:
    last = next((y for y in reversed(one.y) if math.isfinite(y)), None)
    return f"{one.name}: {len(one.x)} points, the last is {number_text(last)}"


def _thinned(one: Series) -> Series:
    """At most a few hundred points: the lowest and the highest of each stretch."""
    if len(one.x) <= _MAX_POINTS:
        return one
    kept = {0, len(one.x) - 1}
    size = 2 * len(one.x) / _MAX_POINTS
    for index in range(_MAX_POINTS // 2):
        part = [
            at
            for at in range(int(index * size), min(len(one.x), int((index + 1) * size)))
            if math.isfinite(one.y[at])
        ]
        if part:
            kept |= {min(part, key=lambda at: one.y[at]), max(part, key=lambda at: one.y[at])}
    chosen = sorted(kept)
    return replace(one, x=[one.x[at] for at in chosen], y=[one.y[at] for at in chosen])


def column_chart(
    title: str, edges: Sequence[float], parts: Sequence[tuple[str, Sequence[float]]], x_title: str
) -> Markup:
    """A histogram: filled columns for the first part, an outline for each other one.

    Args:
        title: What the chart shows; its heading, and its name for screen readers.
        edges: Ascending edges of the columns, one more than there are columns.
        parts: Name of each part, and its share of rows in each column.
        x_title: Label of the horizontal axis.
    """
    xs = Axis(edges[0], edges[-1])
    ys = Axis.over([0.0, *(share for _, shares in parts for share in shares)])
    drawn = []
    for number, (_, shares) in enumerate(parts):
        if number == 0:
            drawn += [
                tag(
                    "rect",
                    x=f"{_x(xs, low):.1f}",
                    y=f"{_y(ys, share):.1f}",
                    width=f"{max(0.5, _x(xs, high) - _x(xs, low) - 0.5):.1f}",
                    height=f"{_y(ys, 0) - _y(ys, share):.1f}",
                    class_="fill s0",
                )
                for (low, high), share in zip(itertools.pairwise(edges), shares, strict=True)
            ]
            continue
        steps = [
            f"{_x(xs, edge):.1f},{_y(ys, share):.1f}"
            for pair, share in zip(itertools.pairwise(edges), shares, strict=True)
            for edge in pair
        ]
        drawn.append(
            tag(
                "polyline",
                points=" ".join(steps),
                class_=f"line s{number % NUM_COLOURS}",
                stroke_dasharray=_DASHES[number % len(_DASHES)],
            )
        )
    names = [name for name, _ in parts]
    ends = f"from {number_text(edges[0])} to {number_text(edges[-1])}"
    said = f"share of rows of {', '.join(names)} {ends}"
    return _figure(
        title, join(_frame(xs, ys, x_title, "share of rows"), drawn), said, _legend(names)
    )


def bar_list(rows: Sequence[tuple[str, float, str]], colour: int = 0) -> Markup:
    """Bars with their names, as a table, so that long names wrap on a narrow screen.

    Args:
        rows: Name, length and text of each bar; a negative length is drawn to the left.
        colour: Index of the bars' colour; modulo `NUM_COLOURS`.
    """
    most = max((abs(length) for _, length, _ in rows), default=0.0) or 1.0
    low = min(0.0, min((length for _, length, _ in rows), default=0.0)) / most
    span = (1.0 if any(length > 0 for _, length, _ in rows) else 0.0) - low or 1.0
    lines = []
    for name, length, text in rows:
        start = (min(0.0, length / most) - low) / span * 100
        bar = tag(
            "svg",
            tag(
                "rect",
                x=f"{start:.2f}",
                y="1",
                width=f"{max(abs(length / most) / span * 100, 0.3):.2f}",
                height="8",
                class_=f"fill s{colour % NUM_COLOURS}",
            ),
            viewBox="0 0 100 10",
            preserveAspectRatio="none",
            class_="bar",
            aria_hidden="true",
        )
        lines.append(
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", bar, class_="b"),
                tag("td", text, class_="n"),
            )
        )
    return tag("table", tag("tbody", lines), class_="bars")


def _x(axis: Axis, number: float) -> float:
    return _LEFT + min(1.0, max(0.0, axis.place(number))) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, number: float) -> float:
    return _HEIGHT - _BOTTOM - min(1.0, max(0.0, axis.place(number))) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(xs: Axis, ys: Axis, x_title: str, y_title: str) -> Markup:
    """Axes, ticks and grid."""
    parts = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick, text in zip(ys.ticks(), tick_texts(ys.ticks()), strict=True):
        y = _y(ys, tick)
        parts.append(tag("line", x1=_LEFT, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", text, x=_LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    ticks = xs.ticks()
    texts = tick_texts(ticks)
    # Long numbers would overlap, so only some of the ticks get a text.
    every = math.ceil(len(ticks) * max(map(len, texts), default=1) * 7.5 / (right - _LEFT)) or 1
    for index, (tick, text) in enumerate(zip(ticks, texts, strict=True)):
        x = _x(xs, tick)
        parts.append(
            tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 4, class_="axis")
        )
        if index % every == 0:
            # The last text may be wider than the margin beside the axis.
            middle = min(x, _WIDTH - len(text) * 3.4)
            parts.append(tag("text", text, x=f"{middle:.1f}", y=bottom + 17, text_anchor="middle"))
    height = (_TOP + bottom) / 2
    return join(
        parts,
        tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"),
        tag("line", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=bottom, class_="axis"),
        tag(
            "text", x_title, x=(_LEFT + right) / 2, y=_HEIGHT - 6, text_anchor="middle", class_="t"
        ),
        tag(
            "text",
            y_title,
            x=10,
            y=height,
            text_anchor="middle",
            transform=f"rotate(-90 10 {height})",
            class_="t",
        ),
    )


def _legend(names: Sequence[str]) -> Markup | None:
    if len(names) < 2:
        return None
    entries = []
    for number, name in enumerate(names):
        sample = tag(
            "svg",
            tag(
                "line",
                x1=0,
                x2=22,
                y1=5,
                y2=5,
                class_=f"line s{number % NUM_COLOURS}",
                stroke_dasharray=_DASHES[number % len(_DASHES)],
            ),
            viewBox="0 0 22 10",
            width=22,
            height=10,
            aria_hidden="true",
        )
        entries.append(tag("span", sample, " ", name))
    return tag("div", entries, class_="legend")


def _figure(title: str, body: Markup, said: str, legend: Markup | None) -> Markup:
    drawing = tag(
        "svg",
        tag("title", title),
        tag("desc", said),
        body,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="chart",
        # Browsers show the child `title` as a tooltip; screen readers take this name.
        aria_label=f"{title}. {said}",
    )
    return tag("figure", tag("figcaption", title), drawing, legend)
