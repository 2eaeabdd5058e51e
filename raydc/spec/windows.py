"""Section `data.windows`: rows that are windows of a series. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raydc.errors import Problem
from raydc.spec.base import Count, Positive, Section
from raydc.spec.document import Path

if TYPE_CHECKING:
    from raydc.spec.sections import Spec

# Name of the input that holds the past steps.
WINDOW = "window"
FORECASTERS = ("dlinear", "nlinear", "tcn")


class Windows(Section):
    """Windows of a table that is ordered by time: past steps, and the values after them."""

    length: Count = Field(description="Past steps of a window.")
    horizon: Count = Field(
        1, description="Number of next values of the target to predict; several are a list."
    )
    stride: Count = Field(
        1, description="Steps from the beginning of one window of a series to that of the next."
    )
    time: str = Field(
        description="Column of times, by which the rows of a series are sorted: numbers or dates. "
        "It is an input only if features.columns names it."
    )
    key: str | None = Field(
        None,
        description="Column whose values tell series apart; a window has rows of one only. It "
        "is an input only if features.columns names it.",
    )
    columns: list[str] | None = Field(
        None,
        min_length=1,
        description="Columns of numbers whose past a window holds. Default: the target. Any other "
        "column is an input only if features.columns names it, with its value at the last past "
        "step.",
    )
    step: Positive | None = Field(
        None,
        description="Time from one row of a series to the next: seconds for dates, otherwise in "
        "the units of the time column. Default: the most frequent step of each series.",
    )
    gaps: Literal["fail", "cut", "ignore"] = Field(
        "fail",
        description="What to do where two rows are not one step apart: stop, make no window across "
        "the gap, or take the rows as they come.",
    )
    repeats: Literal["fail", "first", "last"] = Field(
        "fail",
        description="What to do with rows of a series that have the same time: stop, or take the "
        "first or the last of them.",
    )
    missing: Literal["fail", "cut", "previous"] = Field(
        "fail",
        description="What to do if a window lacks a number: stop, leave the window out, or take "
        "the number before it, here and at the endpoint. A target is never filled in.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Windows:
        names = [self.time, *([self.key] if self.key is not None else []), *(self.columns or ())]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"time, key and columns name {twice!r} twice")
        return self

    def inputs(self, target: str) -> tuple[str, ...]:
        """Columns of which a window holds the past.

        Args:
            target: Name of the target, which is the only one by default.
        """
        return tuple(self.columns or (target,))


def window_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields conflicts between the windows and the rest of a spec.

    Args:
        spec: A spec whose fields are valid.
        where: Maps a path to its place in the file, for the message.
    """

    def problem(message: str, *path: str) -> Problem:
        return Problem(where(path), ".".join(path), message)

    data, windows = spec.data, spec.data.windows
    normalise = getattr(spec.model, "normalise", "none")
    name = getattr(spec.model, "name", "")
    if windows is None:
        if name in FORECASTERS or normalise not in ("none", None):
            what = name if name in FORECASTERS else f"normalise: {normalise}"
            yield problem(f"{what} is for windows of a series; set data.windows", "model", "name")
        return
    if data.task != "regression":
        yield problem("windows are for data.task: regression", "data", "windows")
    split = data.split
    is_group = split.by == "group" and windows.key is not None and split.column == windows.key
    if not is_group and (split.by, split.column) != ("time", windows.time):
        or_group = f", or {{by: group, column: {windows.key}}}" if windows.key else ""
        message = (
            "windows overlap, so that another split would train on values that it is tested on; "
            f"set {{by: time, column: {windows.time}}}{or_group}"
        )
        yield problem(message, "data", "split")
    if data.clean.on_error == "quarantine":
        message = "windows do not list refused rows; set drop, which counts them, or fail"
        yield problem(message, "data", "clean", "on_error")
    if data.clean.duplicates == "drop":
        message = "leave it out: data.windows.repeats decides about rows with the same time"
        yield problem(message, "data", "clean", "duplicates")
    if WINDOW in data.features.columns:
        message = f"{WINDOW!r} is the name of the past steps; rename the column"
        yield problem(message, "data", "features", "columns")
    has_own_past = data.target in windows.inputs(data.target)
    # A linear forecaster has a default of its own form.
    if not has_own_past and getattr(spec.model, "way", normalise) != "none":
        message = (
            f"the forecast is relative to the past of {data.target!r}, which is not among "
            "data.windows.columns"
        )
        yield problem(message, "model", "name")
