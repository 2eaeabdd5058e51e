"""Charts: numbers lie where they belong, and odd ones harm nothing."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from raydc.report import charts
from raydc.report.axes import Axis, number_text, tick_texts
from raydc.report.charts import Series


def drawn(figure: str) -> ET.Element:
    """The drawing, which must be whole XML."""
    found = ET.fromstring(f"<r>{figure}</r>").find(".//svg[@class='chart']")
    assert found is not None
    return found


def points(figure: str) -> list[list[tuple[float, float]]]:
    return [
        [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in line.get("points", "").split())
        ]
        for line in drawn(figure).findall("polyline")
    ]


def test_points_are_in_order_and_inside() -> None:
    (line,) = points(charts.line_chart("t", [Series("a", [0, 1, 2], [3, 1, 2])], "x", "y"))
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    # Upwards is a lower number in a drawing.
    assert line[0][1] < line[2][1] < line[1][1]
    assert all(0 < x < 440 and 0 < y < 250 for x, y in line)


def test_gaps_and_single_points_are_drawn() -> None:
    y = [1.0, 2.0, math.nan, 1.5, math.inf, 3.0, 2.0]
    figure = charts.line_chart("t", [Series("a", list(range(7)), y)], "x", "y")
    assert [len(line) for line in points(figure)] == [2, 2]
    assert len(drawn(figure).findall("circle")) == 1


@pytest.mark.parametrize("y", [[], [math.nan], [5.0], [0.0, 0.0], [-1e300, 1e300], [1e-12, 1e9]])
def test_odd_numbers_give_a_chart(y: list[float]) -> None:
    figure = charts.line_chart("t", [Series("a", list(range(len(y))), y)], "x", "y")
    assert not re.search(r"nan|inf(?!o)", "".join(map(str, points(figure))))


def test_names_from_data_stay_text() -> None:
    name = "<script>alert(1)</script>"
    for figure in (
        charts.line_chart(name, [Series(name, [0, 1], [0, 1]), Series("b", [0], [1])], name, name),
        charts.column_chart(name, [0, 1, 2], [(name, [0.5, 0.5]), ("b", [1, 0])], name),
        charts.bar_list([(name, 1.0, name)]),
    ):
        assert "<script" not in figure
        ET.fromstring(f"<r>{figure}</r>")


def test_many_points_are_thinned_and_their_extremes_stay() -> None:
    y = [math.sin(at / 50) for at in range(20_000)]
    y[7777] = 40.0
    (line,) = points(charts.line_chart("t", [Series("a", list(range(len(y))), y)], "x", "y"))
    assert len(line) <= 402
    whole = charts.line_chart("t", [Series("a", [0, 1], [-1, 40])], "x", "y")
    assert min(place for _, place in line) == min(place for _, place in points(whole)[0])


def test_negative_bars_begin_at_the_same_zero() -> None:
    root = ET.fromstring(charts.bar_list([("a", 2.0, "2"), ("b", -1.0, "-1"), ("c", 0.0, "0")]))
    bars = [(float(r.get("x", "")), float(r.get("width", ""))) for r in root.iter("rect")]
    assert bars[0][0] == pytest.approx(bars[1][0] + bars[1][1], abs=0.02)
    assert bars[0][1] == pytest.approx(2 * bars[1][1], abs=0.02)


def test_axes_end_at_round_numbers_and_ticks_say_what_they_are() -> None:
    axis = Axis.over([0.13, 0.87])
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert tick_texts(axis.ticks()) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert tick_texts(Axis.over([0, 17_379]).ticks())[-1] == "20,000"
    assert tick_texts(Axis.over([0, 3e5]).ticks())[1] == "50k"
    assert tick_texts(Axis.over([0, 2.5e8]).ticks())[-1] == "250M"
    log = Axis.over([1e-4, 2.0], may_be_log=True)
    assert log.is_log
    assert [1e-4 <= tick <= 2.0 for tick in log.ticks()] == [True] * len(log.ticks())
    assert log.place(2.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12345.6, "12,346"),
        (1e9, "1e+09"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number_text(value) == text
