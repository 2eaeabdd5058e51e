"""Section `data` of a spec: where the rows come from and how they are prepared. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raydc.spec.augmentation import Augment
from raydc.spec.base import Section
from raydc.spec.chat import MESSAGES, RESPONSE, Chat
from raydc.spec.cleaning import Cell, Clean, Split
from raydc.spec.feature_options import FeatureOptions
from raydc.spec.joined_table import JoinedTable
from raydc.spec.language import LANGUAGE, TEXT, TokenBlocks
from raydc.spec.row_sources import (
    HuggingFaceRows,
    RowFunction,
    SqlQuery,
    TorchvisionRows,
    kind_of_rows,
)
from raydc.spec.windows import Windows


class IdxFiles(Section):
    """A pair of IDX files, gzipped or not."""

    images: str = Field(description="IDX3 file of uint8 images.")
    labels: str = Field(description="IDX1 file of uint8 labels.")


# With a tag, pydantic reports only the errors of the intended form.
def _part_kind(value: Any) -> str:
    if (rows := kind_of_rows(value)) is not None:
        return rows
    return "files" if isinstance(value, dict | IdxFiles) else "path"


Part = Annotated[
    Annotated[str, Tag("path")]
    | Annotated[IdxFiles, Tag("files")]
    | Annotated[SqlQuery, Tag("query")]
    | Annotated[RowFunction, Tag("function")]
    | Annotated[HuggingFaceRows, Tag("huggingface")]
    | Annotated[TorchvisionRows, Tag("torchvision")],
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
    | Annotated[SqlQuery, Tag("query")]
    | Annotated[RowFunction, Tag("function")]
    | Annotated[HuggingFaceRows, Tag("huggingface")]
    | Annotated[TorchvisionRows, Tag("torchvision")]
    | Annotated[Sources, Tag("parts")],
    Discriminator(_source_kind),
]


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
    encoding: Literal["auto", "utf-8", "utf-16", "latin-1", "cp1252"] = Field(
        "auto",
        description="Encoding of the text. auto: UTF-8, or UTF-16 if the file has its mark.",
    )
    decimal: Literal[".", ","] = Field(
        ".",
        description="Sign before the decimals of numbers. With a comma, `1,5` is 1.5, and points "
        "between groups of three digits, as in `1.234,5` and `1.234`, separate thousands. A "
        "category that looks like such a number is changed too: clients send `1.5` for it.",
    )
    comment: str | None = Field(
        None, min_length=1, description="Lines that begin with this text are left out."
    )
    skip_rows: int = Field(0, ge=0, description="Lines in front of the header that are left out.")

    @model_validator(mode="after")
    def _signs_differ(self) -> Csv:
        if self.decimal == "," and self.delimiter is None:
            raise ValueError(
                "decimal: ',' needs a delimiter that is not a comma, such as delimiter: ';'"
            )
        if self.decimal == self.delimiter:
            raise ValueError("decimal and delimiter must be different characters")
        return self


class Data(Section):
    """Sources of the rows, and how they are prepared."""

    source: Source = Field(
        description="Path, folder, glob or URI; {sql, connection, key} or {function, key} for rows "
        "of a database or of a function; {huggingface} or {torchvision, folder} for a data set of "
        "these; or {train, test} for a data set with an official split. "
        "Relative paths start at the current directory."
    )
    format: Literal[
        "auto", "csv", "parquet", "jsonl", "image_folder", "idx", "numpy", "tar", "text"
    ] = Field(
        "auto",
        description="File format. auto: by the file names. `numpy` is `.npz` and `.npy`; "
        "`tar` has images and labels in the layout of WebDataset, `7.jpg` beside `7.cls` or "
        "`7.json`; `text` is plain text in UTF-8, for language_modelling.",
    )
    csv: Csv = Field(Csv(), description="Form of CSV files: header, delimiter, encoding and so on.")
    partitioning: Literal["hive", "ignore"] = Field(
        "hive",
        description="Whether folders named `column=value` are columns of the CSV, Parquet and JSON "
        "Lines files in them.",
    )
    joins: list[JoinedTable] = Field(
        default_factory=list,
        max_length=32,
        description="Tables whose columns are added to the rows, by a key.",
    )
    task: Literal["classification", "regression", "multilabel", "language_modelling"] = Field(
        "classification",
        description="Kind of prediction: a class, a number, any number of labels, or the next "
        "token of a text.",
    )
    target: str = Field(
        "label",
        description="Column to predict. In image folders and IDX files it is `label`; for "
        "language_modelling the default is `text`, which is the column of files of plain text; "
        "with `chat` it is `messages` or `response`.",
    )
    label_delimiter: str = Field(
        "|",
        min_length=1,
        description="Text between two labels in a cell of the target of a multilabel task. Cells "
        "that are lists, in Parquet and JSON Lines, need none.",
    )
    label_columns: list[str] | None = Field(
        None,
        min_length=2,
        description="Columns of 0 and 1 (or false and true), one for each label, which take the "
        "place of the target column of a multilabel task; `target` names what they are together.",
    )
    query: str | None = Field(
        None,
        description="Column whose value groups the rows that are ranked against each other, such "
        "as a query or a user: for the metric ndcg. It may be an input too, or be excluded.",
    )
    classes: list[Cell] | None = Field(
        None,
        min_length=2,
        description="All names of classes or labels, in order; a number stands for its text. "
        "Default: the sorted labels of the training rows.",
    )
    windows: Windows | None = Field(
        None,
        description="Makes the rows of a series into windows: the past steps are the input, the "
        "next values of the target are predicted.",
    )
    blocks: TokenBlocks = Field(
        TokenBlocks(), description="Rows of tokens, for task: language_modelling."
    )
    chat: Chat | None = Field(
        None,
        description="Makes rows of conversations, of which the answers are learnt: for a "
        "pretrained decoder.",
    )
    split: Split = Field(Split(), description="Fractions of the hash split.")
    clean: Clean = Field(Clean(), description="Missing values, outliers and duplicates.")
    features: FeatureOptions = Field(FeatureOptions(), description="From columns to tensors.")
    image_storage: Literal["auto", "encoded", "decoded"] = Field(
        "auto",
        description="How images are stored: `encoded` as their files, decoded in each epoch; "
        "`decoded` as pixels. auto: as files if all pixels would take more than 1 GiB and the "
        "files take less. Images that come as arrays are pixels.",
    )
    augment: Augment | None = Field(None, description="Random changes of training images.")

    @model_validator(mode="before")
    @classmethod
    def _texts_are_predicted(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("task") == LANGUAGE:
            chat = value.get("chat")
            # Not valid yet: what is wrong with it is said later.
            prompt = chat.get("prompt") if isinstance(chat, dict) else getattr(chat, "prompt", None)
            target = TEXT if chat is None else MESSAGES if prompt is None else RESPONSE
            return {"target": target, **value}
        return value

    @model_validator(mode="after")
    def _classes_fit_task(self) -> Data:
        if self.classes and self.task == "regression":
            raise ValueError(
                "classes are for classification, and this is a regression; leave them out"
            )
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names one class twice")
        return self

    @model_validator(mode="after")
    def _labels_fit_task(self) -> Data:
        columns = self.label_columns
        if self.task != "multilabel" and (columns or self.label_delimiter != "|"):
            field = "label_columns is" if columns else "label_delimiter is"
            raise ValueError(f"{field} for task: multilabel; this is a {self.task}")
        if columns and len(set(columns)) < len(columns):
            raise ValueError("label_columns names one column twice")
        if columns and self.classes:
            raise ValueError("the labels are those of label_columns; leave classes out")
        if columns and self.target in columns:
            raise ValueError(
                f"target names all label_columns together, and {self.target!r} is one of them"
            )
        if self.query is not None and self.query in (self.target, *(columns or ())):
            raise ValueError(
                f"query: {self.query!r} is the target; name the column that tells the groups apart"
            )
        return self
