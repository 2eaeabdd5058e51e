"""Digits as a hand writes them: strokes of points (x right, y down) in a unit square."""

from __future__ import annotations

import math

Stroke = list[tuple[float, float]]


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, num: int = 9) -> Stroke:
    """A part of an ellipse; degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / num) for step in range(num + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


DIGITS: dict[str, list[Stroke]] = {
    "0": [arc(0.5, 0.5, 0.27, 0.4, -90, 270)],
    "1": [[(0.36, 0.26), (0.54, 0.1), (0.54, 0.9)]],
    "2": [[*arc(0.5, 0.32, 0.24, 0.22, -170, 30), (0.28, 0.88), (0.78, 0.88)]],
    "3": [arc(0.46, 0.3, 0.24, 0.2, -150, 90) + arc(0.46, 0.7, 0.27, 0.2, -90, 150)],
    "4": [[(0.58, 0.1), (0.24, 0.62), (0.8, 0.62)], [(0.62, 0.4), (0.62, 0.92)]],
    "5": [[(0.74, 0.1), (0.34, 0.1), (0.32, 0.45), *arc(0.48, 0.64, 0.27, 0.25, -130, 140)]],
    "6": [[(0.62, 0.08), (0.42, 0.3), *arc(0.5, 0.67, 0.22, 0.22, -160, 200)]],
    "7": [[(0.24, 0.12), (0.76, 0.12), (0.44, 0.9)], [(0.36, 0.52), (0.76, 0.48)]],
    "8": [arc(0.5, 0.29, 0.19, 0.19, 60, -240) + arc(0.5, 0.7, 0.23, 0.21, -60, 300)],
    "9": [[*arc(0.5, 0.31, 0.21, 0.21, 0, -360), (0.66, 0.92)]],
}
