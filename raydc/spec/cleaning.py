"""Sections `data.clean` and `data.split`: what happens to rows before they are used. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raydc.spec.base import Fraction, Positive, Section
from raydc.spec.label_text import text_of

DEFAULT_TEST_FRACTION = 0.1
DEFAULT_OUTLIER_QUANTILE = 0.01

MissingPolicy = Literal["impute", "drop", "error", "constant", "mean", "median", "most_frequent"]
OutlierPolicy = Literal["keep", "clip", "drop", "robust"]


def as_text(value: Any) -> Any:
    """Text of a number or boolean of YAML, as a file holds it; other values stay."""
    return text_of(value) if isinstance(value, bool | int | float) else value


Cell = Annotated[str, BeforeValidator(as_text)]


class Split(Section):
    """How validation rows and test rows are taken from the training rows."""

    by: Literal["fraction", "stratified", "group", "time", "column"] = Field(
        "fraction",
        description="`fraction`: by a hash of each row's id. `stratified`: the same fraction of "
        "the rows of each class, or of each value of `column`. `group`: all rows with one value of "
        "`column` in one split. `time`: the last rows by the numbers or dates of `column` are for "
        "the test, those before them for validation. `column`: `column` says train, validation or "
        "test.",
    )
    column: str | None = Field(
        None,
        description="Column that the split looks at. Unless the split is stratified, it is no "
        "input, or only if features.columns names it.",
    )
    validation_fraction: Fraction = Field(
        0.1,
        description="Fraction of validation rows, for early stop, sweeps and the best checkpoint. "
        "A few dozen rows choose by chance: of a small data set, take more, or set train.metric "
        "to loss.",
    )
    test_fraction: Fraction | None = Field(
        None,
        description=f"Fraction held out for the evaluation. Default {DEFAULT_TEST_FRACTION}, or "
        "none if the "
        "source has a test part.",
    )

    @model_validator(mode="after")
    def _leaves_rows(self) -> Split:
        # Both are taken from the same hash range, so their sum counts.
        if self.validation_fraction + (self.test_fraction or 0.0) >= 1.0:
            raise ValueError("validation_fraction + test_fraction leave no row to train on")
        if self.by in ("group", "time", "column") and self.column is None:
            raise ValueError(f"by: {self.by} needs column: the name of the column to split by")
        if self.by == "fraction" and self.column is not None:
            raise ValueError("column is not used by a split by fraction; leave it out, or set by")
        return self

    @property
    def own_column(self) -> str | None:
        """The column that is for the split and for nothing else; None if there is none."""
        return self.column if self.by in ("group", "time", "column") else None


def _check_outliers(part: Clean | ColumnCleaning) -> None:
    if part.outlier_quantile is not None and part.outlier_deviations is not None:
        raise ValueError("give outlier_quantile or outlier_deviations, not both")
    if part.missing == "constant" and part.constant is None:
        raise ValueError("missing: constant needs the value to fill in: constant: ...")
    if part.constant is not None and part.missing != "constant":
        raise ValueError(
            "constant is used with missing: constant only; set that, or leave constant out"
        )


class ColumnCleaning(Section):
    """Cleaning of one column; what is left out is as for all columns."""

    missing: MissingPolicy | None = Field(
        None, description="What happens where the column has no value."
    )
    constant: Cell | None = Field(None, description="The value for `missing: constant`.")
    indicator: bool | None = Field(
        None, description="Whether an input says that the value was missing."
    )
    outliers: OutlierPolicy | None = Field(
        None, description="What happens to numbers outside the limits."
    )
    outlier_quantile: Annotated[float, Field(gt=0.0, lt=0.5)] | None = Field(
        None, description="Fraction of the training rows outside each limit."
    )
    outlier_deviations: Positive | None = Field(
        None, description="Standard deviations from the mean to each limit."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ColumnCleaning:
        _check_outliers(self)
        return self


class Clean(Section):
    """Cleaning of rows. What is fitted for it is fitted on training rows."""

    missing: MissingPolicy = Field(
        "impute",
        description="For a missing feature: fill in the mean of the training rows (or a category "
        "for missing values), drop the row, or stop. Or fill in a `constant`, the `mean`, the "
        "`median` or the `most_frequent` value; a column of categories keeps its category for "
        "missing values where the mean or median is asked for.",
    )
    constant: Cell | None = Field(None, description="The value for `missing: constant`.")
    indicator: bool = Field(
        False,
        description="Whether each column of numbers of which training rows lack values gets an "
        "input that is 1 where the value was missing. Categories have one anyway.",
    )
    missing_target: Literal["drop", "error"] | None = Field(
        None,
        description="For a row without a target: drop it, or stop. Default: `drop` if `missing` "
        "is `drop`, else `error`.",
    )
    missing_values: list[str] = Field(
        default_factory=lambda: [""], description="Strings that mean 'missing' in CSV files."
    )
    outliers: OutlierPolicy = Field(
        "keep",
        description="For numbers outside the limits: `clip` brings them to the limit, here and at "
        "the endpoint; `drop` leaves training rows out; `robust` changes no number, but scales the "
        "column by its median and the distance of its quartiles.",
    )
    outlier_quantile: Annotated[float, Field(gt=0.0, lt=0.5)] | None = Field(
        None,
        description="Fraction of the training rows outside each limit. Default "
        f"{DEFAULT_OUTLIER_QUANTILE}, unless outlier_deviations is given.",
    )
    outlier_deviations: Positive | None = Field(
        None, description="Standard deviations from the mean to each limit."
    )
    columns: dict[str, ColumnCleaning] = Field(
        default_factory=dict, description="Cleaning of single columns, by name."
    )
    duplicates: Literal["keep", "drop"] = Field(
        "keep", description="Keep or drop later copies of an equal row."
    )
    on_error: Literal["fail", "drop", "quarantine"] = Field(
        "fail",
        description="For a row that cannot be used (a cell that is not a finite number, a missing "
        "value that is an error, a label outside data.classes, a line that is not a row, an image "
        "that cannot be read): stop at the first, or leave it out and count it. `quarantine` "
        "also lists each in `quarantine.jsonl` of the data set: file, row, column, value, reason.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Clean:
        _check_outliers(self)
        return self

    @property
    def drops_missing_target(self) -> bool:
        """Whether a row without a target is dropped."""
        return (self.missing_target or self.missing) == "drop"

    def of(self, name: str) -> ColumnCleaning:
        """Cleaning of a column: its own, and that of all columns for what it leaves out."""
        own = self.columns.get(name, ColumnCleaning())
        # A constant and limits belong to the policy beside them.
        missing = self if own.missing is None else own
        outliers = self if own.outlier_quantile is own.outlier_deviations is None else own
        return ColumnCleaning.model_construct(
            missing=missing.missing,
            constant=missing.constant,
            indicator=self.indicator if own.indicator is None else own.indicator,
            outliers=own.outliers or self.outliers,
            outlier_quantile=outliers.outlier_quantile,
            outlier_deviations=outliers.outlier_deviations,
        )
