"""Section `data.joins`: tables whose columns are added to the rows. Pure."""

from __future__ import annotations

from pydantic import Field

from raydc.spec.base import Section


class JoinedTable(Section):
    """A table of other facts, such as one of customers beside rows of orders.

    Each row gets the columns of the one row with its key. It stays where no row has the key: then
    these columns are missing, and `data.clean` says what becomes of them.
    """

    path: str = Field(
        description="Path, folder, glob or URI of CSV, Parquet or JSON Lines files. Relative paths "
        "start at the current directory. The whole table is held in the memory of each process "
        "that reads, at most 1 GiB."
    )
    key: str = Field(
        description="Column of the table that names its rows; no two have the same. Numbers and "
        "texts are compared as texts, `7`, `7.0` and `'7'` being equal."
    )
    on: str | None = Field(
        None, description="Column of the rows that holds the key. Default: that of the same name."
    )
    columns: list[str] | None = Field(
        None, min_length=1, description="Columns that are added. Default: all but the key."
    )
    prefix: str = Field("", description="Text in front of the names of the added columns.")

    @property
    def column_of_rows(self) -> str:
        """Column of the rows that holds the key."""
        return self.on or self.key
