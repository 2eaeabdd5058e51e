"""Section `data` of a spec: where the rows come from and how they are prepared. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from raydc.spec.base import Count, Fraction, Section
from raydc.spec.label_text import text_of


class IdxFiles(Section):
    """A pair of IDX files, gzipped or not."""

    images: str = Field(description="IDX3 file of uint8 images.")
    labels: str = Field(description="IDX1 file of uint8 labels.")


# With a tag, pydantic reports only the errors of the intended form.
def _part_kind(value: Any) -> str:
    return "files" if isinstance(value, dict | IdxFiles) else "path"


Part = Annotated[
    Annotated[str, Tag("path")] | Annotated[IdxFiles, Tag("files")],
    Discriminator(_part_kind),
]


class Sources(Section):
    """Separate files for training and test, for a data set with an official split."""

    train: Part = Field(description="Path, folder, glob or URI of the training rows.")
    test: Part = Field(
        description="Path, folder, glob or URI of the held-out rows; never trained on."
    )


def _source_kind(value: Any) -> str:
    if isinstance(value, Sources) or (isinstance(value, dict) and {"train", "test"} & set(value)):
        return "parts"
    return _part_kind(value)


Source = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[IdxFiles, Tag("files")]
    | Annotated[Sources, Tag("parts")],
    Discriminator(_source_kind),
]


DEFAULT_TEST_FRACTION = 0.1


class Split(Section):
    """Fractions taken from the training rows by a hash of each row's id."""

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
        return self


class Clean(Section):
    """Cleaning of rows before the split."""

    missing: Literal["impute", "drop", "error"] = Field(
        "impute",
        description="For a missing feature: fill in the mean of the training rows (or a category "
        "for missing values), drop the row, or stop.",
    )
    missing_target: Literal["drop", "error"] | None = Field(
        None,
        description="For a row without a target: drop it, or stop. Default: `drop` if `missing` "
        "is `drop`, else `error`.",
    )
    missing_values: list[str] = Field(
        default_factory=lambda: [""], description="Strings that mean 'missing' in CSV files."
    )
    duplicates: Literal["keep", "drop"] = Field(
        "keep", description="Keep or drop later copies of an equal row."
    )

    @property
    def drops_missing_target(self) -> bool:
        """Whether a row without a target is dropped."""
        return (self.missing_target or self.missing) == "drop"


class Csv(Section):
    """Form of CSV files."""

    header: bool = Field(
        True,
        description="Whether the first line names the columns. Without, they are `column_1`, "
        "`column_2` and so on.",
    )
    delimiter: str | None = Field(
        None,
        pattern=r'^[^"\r\n]$',
        description="Character between two cells. Default: a tab in files named `.tsv`, else a "
        "comma.",
    )
    quotes: Literal["double", "none"] = Field(
        "double",
        description='Whether `"` encloses cells that hold delimiters and line breaks, or is a '
        "character like others.",
    )


class FeatureOptions(Section):
    """Conversion of columns to tensors. A column that is not named has the kind of its type."""

    exclude: list[str] = Field(default_factory=list, description="Columns that are left out.")
    columns: dict[str, Literal["numeric", "categorical", "image"]] = Field(
        default_factory=dict, description="Kinds of columns whose inferred kind is wrong."
    )
    scale: Literal["standard", "min_max", "none"] = Field(
        "standard", description="Scaling of numbers and pixels."
    )
    max_categories: Count = Field(
        128,
        description="Most values of a categorical column that get an input each; rarer ones "
        "share one.",
    )
    image_size: list[Count] | None = Field(
        None, min_length=2, max_length=2, description="[height, width] to which images are resized."
    )
    image_channels: Literal[1, 3] | None = Field(
        None,
        description="Convert images to grey (1) or RGB (3). Files become what a viewer shows, here "
        "and at the endpoint: turned by their EXIF orientation, and white where transparent.",
    )


class Augment(Section):
    """Random changes of training images in each epoch; never in validation or serving."""

    crop_padding: int = Field(
        0,
        ge=0,
        description="Black pixels added on each side before a random crop to the original size.",
    )
    horizontal_flip: bool = Field(False, description="Mirror half of the images, left to right.")


def _class_name(value: Any) -> Any:
    # YAML reads 10 and true as a number and a boolean, which files hold as text.
    return text_of(value) if isinstance(value, bool | int | float) else value


ClassName = Annotated[str, BeforeValidator(_class_name)]


class Data(Section):
    """Sources of the rows, and how they are prepared."""

    source: Source = Field(
        description="Path, folder, glob or URI; or {train, test} for a data set with an "
        "official split. "
        "Relative paths start at the current directory."
    )
    format: Literal["auto", "csv", "parquet", "jsonl", "image_folder", "idx"] = Field(
        "auto", description="File format. auto: by the file names."
    )
    csv: Csv = Field(Csv(), description="Form of CSV files: header, delimiter and quotes.")
    partitioning: Literal["hive", "ignore"] = Field(
        "hive",
        description="Whether folders named `column=value` are columns of the CSV, Parquet and JSON "
        "Lines files in them.",
    )
    task: Literal["classification", "regression"] = Field(
        "classification", description="Kind of prediction: a class or a number."
    )
    target: str = Field(
        "label", description="Column to predict. In image folders and IDX files it is `label`."
    )
    classes: list[ClassName] | None = Field(
        None,
        min_length=2,
        description="All class names, in order; a number stands for its text. Default: the sorted "
        "labels of the training rows.",
    )
    split: Split = Field(Split(), description="Fractions of the hash split.")
    clean: Clean = Field(Clean(), description="Missing values and duplicates.")
    features: FeatureOptions = Field(FeatureOptions(), description="From columns to tensors.")
    augment: Augment | None = Field(None, description="Random changes of training images.")

    @model_validator(mode="after")
    def _classes_fit_task(self) -> Data:
        if self.classes and self.task == "regression":
            raise ValueError("classes are for classification; this is a regression")
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes holds a name twice")
        return self
