"""Sources whose rows have no place in a file: queries, functions and hubs. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from raydc.spec.base import Section

_PASSWORD = re.compile(r"://[^/@]*:[^/@]+@")


class SqlQuery(Section):
    """Rows of an SQL query."""

    sql: str = Field(min_length=1, description="The query. Its columns are those of the rows.")
    connection: str = Field(
        description="`sqlite:///PATH`, `postgresql://...` (needs the extra `postgres`), or `$NAME` "
        "for what the environment variable NAME holds. A password is allowed there only, because "
        "specs are stored."
    )
    key: str = Field(
        description="Column that names each row: no two rows have the same, and none lacks it. It "
        "is an input only if features.columns names it."
    )

    @field_validator("connection")
    @classmethod
    def _has_no_password(cls, value: str) -> str:
        if _PASSWORD.search(value):
            raise ValueError("holds a password; give it as $NAME, an environment variable")
        if not value.startswith(("$", "sqlite:///", "postgresql://")):
            raise ValueError("must begin with sqlite:///, postgresql:// or $")
        return value


class RowFunction(Section):
    """Rows that a function of the user yields."""

    function: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="Import path `module:function`. It yields one dict for each row.",
    )
    key: str = Field(
        description="Column that names each row: no two rows have the same, and none lacks it. It "
        "is an input only if features.columns names it."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the function."
    )


class HuggingFaceRows(Section):
    """Rows of a data set of Hugging Face."""

    huggingface: str = Field(
        min_length=1,
        description="Name of a data set on the hub, such as `stanfordnlp/imdb`, or a folder that "
        "`save_to_disk` wrote or that holds Parquet files. Needs the extra `huggingface`. No code "
        "of a data set is run.",
    )
    config: str | None = Field(None, description="Name of the configuration, if it has several.")
    split: str = Field("train", description="Split whose rows are read.")
    revision: str | None = Field(
        None, description="Branch, tag or commit on the hub. A commit always gives the same rows."
    )
    key: str | None = Field(
        None,
        description="Column that names each row, as for a query. Default: a row is named by its "
        "content, and equal rows are counted.",
    )


class TorchvisionRows(Section):
    """Images and labels of a data set of torchvision."""

    torchvision: Literal[
        "MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "USPS", "STL10"
    ] = Field(description="Its class in `torchvision.datasets`.")
    folder: str = Field(description="Folder of its files, `root` of the class.")
    split: Literal["train", "test"] = Field("train", description="Split whose rows are read.")
    download: bool = Field(
        False,
        description="Whether missing files are downloaded to the folder, as torchvision does.",
    )

    @property
    def key(self) -> None:
        """Rows are named by their content."""
        return


RowSource = SqlQuery | RowFunction | HuggingFaceRows | TorchvisionRows
# Tag of each kind, and the field by which it is recognised.
_FIELDS: dict[str, tuple[type[Section], str]] = {
    "query": (SqlQuery, "sql"),
    "function": (RowFunction, "function"),
    "huggingface": (HuggingFaceRows, "huggingface"),
    "torchvision": (TorchvisionRows, "torchvision"),
}


def kind_of_rows(value: Any) -> str | None:
    """Which of these sources a value is meant to be; None if it is none.

    Args:
        value: A section or a mapping.
    """
    for tag, (section, field) in _FIELDS.items():
        if isinstance(value, section) or (isinstance(value, dict) and field in value):
            return tag
    return None
