"""CSV files as tables whose cells are all text. Runs in tasks of Ray Data; headers in the driver.

No type is guessed here: the type of a column is a statement about all its rows, and a reader sees
only some of them (see `raydc.data.column_scan`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from pyarrow import fs as pafs

from raydc.data.layout import SourceFile, plain_suffix
from raydc.errors import DataError, shown
from raydc.spec.data import Csv

# Arrow parses a block at a time, so that the first bounds the memory of a reader. A row must fit
# into a block; for one that does not, blocks grow up to the second.
_BLOCK_BYTES = 4 * 1024 * 1024
_MAX_BLOCK_BYTES = 256 * 1024 * 1024
_BLOCK_GROWTH = 8
_OTHER_DELIMITERS = (";", "\t", "|")
_QUOTES_HINT = "If quotes are plain characters in this file, set data.csv.quotes: none."


@dataclass(frozen=True)
class CsvReader:
    """Reads CSV files of one form.

    Attributes:
        filesystem: Filesystem of the files.
        form: Section `data.csv` of the spec.
        missing_values: Cells that become null.
    """

    filesystem: pafs.FileSystem
    form: Csv
    missing_values: tuple[str, ...]

    def column_names(self, file: SourceFile) -> list[str]:
        """Names of the columns of a file: those of its header, or `column_1` and so on.

        Raises:
            DataError: The file is empty, no UTF-8 text, names a column twice, or its cells are
                separated by another character.
        """
        names = self._first_row(file)
        if not names:
            raise DataError(
                f"{file.path}: the file is empty",
                "The first line of a CSV file names its columns." if self.form.header else None,
            )
        self._refuse_other_delimiter(file, names)
        if not self.form.header:
            return [f"column_{number}" for number in range(1, len(names) + 1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                f"{file.path}: the header holds {twice!r} twice",
                "If the file has no header, set data.csv.header: false.",
            )
        return names

    def _first_row(self, file: SourceFile) -> list[str]:
        with (
            self.filesystem.open_input_stream(file.path) as stream,
            # utf-8-sig drops the byte order mark that Excel writes.
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        ):
            try:
                rows = csv.reader(
                    text,
                    delimiter=self._delimiter(file),
                    quoting=csv.QUOTE_NONE if self.form.quotes == "none" else csv.QUOTE_MINIMAL,
                )
                return next(rows, [])
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file.path}: not UTF-8 text: {error.reason}", "Convert it to UTF-8."
                ) from error
            except csv.Error as error:
                raise DataError(f"{file.path}: line 1: {error}", _QUOTES_HINT) from error

    def _refuse_other_delimiter(self, file: SourceFile, names: Sequence[str]) -> None:
        if self.form.delimiter is not None or len(names) > 1:
            return
        other = next((sign for sign in _OTHER_DELIMITERS if sign in names[0]), None)
        if other is not None:
            raise DataError(
                f"{file.path}: its only column is {shown(names[0])}: there are no commas, but "
                f"{shown(other)} between the names",
                f"Set data.csv.delimiter: {other!r}. Numbers with a decimal comma must be written "
                "with a point all the same.",
            )

    def tables(self, file: SourceFile, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yields the rows of a file in their order, every cell as text.

        Args:
            file: File to read; `.tsv` has tabs between its cells.
            names: Columns of the file, in the order of the cells.

        Raises:
            DataError: A row has a different number of cells than the header, or is too large.
            pa.ArrowInvalid: The file is broken in another way.
        """
        ragged: list[Any] = []

        def on_invalid_row(row: Any) -> str:
            # Arrow's own message lacks the number of the row and its start.
            ragged.append(row)
            return "error"

        num_rows, block_bytes = 0, _BLOCK_BYTES
        while True:
            num_known = num_rows
            try:
                # After a row that is too large the file is read again, without the rows before it.
                for batch in self._open(file, names, block_bytes, on_invalid_row):
                    rows = batch.slice(min(num_known, batch.num_rows))
                    num_known -= batch.num_rows - rows.num_rows
                    num_rows += rows.num_rows
                    if rows.num_rows:
                        yield pa.Table.from_batches([rows])
                return
            except pa.ArrowInvalid as error:
                if ragged:
                    raise self._ragged_row(file, ragged[0]) from error
                if "straddl" not in str(error):
                    raise
                if block_bytes >= _MAX_BLOCK_BYTES:
                    raise DataError(
                        f"{file.path}: row {num_rows + 1} has more than {block_bytes:,} bytes",
                        f"A quote that is never closed joins all lines after it. {_QUOTES_HINT}",
                    ) from error
                block_bytes = min(block_bytes * _BLOCK_GROWTH, _MAX_BLOCK_BYTES)

    def _ragged_row(self, file: SourceFile, row: Any) -> DataError:
        # Arrow counts the header as row 1.
        number = row.number - (1 if self.form.header else 0)
        what = "header" if self.form.header else "first row"
        first = "after the header" if self.form.header else "of the file"
        return DataError(
            f"{file.path}: row {number}: {row.actual_columns} cells, but the {what} has "
            f"{row.expected_columns}",
            f"The row starts with {shown(row.text[:50])}; row 1 is the first {first}.",
        )

    def _open(
        self,
        file: SourceFile,
        names: Sequence[str],
        block_bytes: int,
        on_invalid_row: Callable[[Any], str],
    ) -> Iterator[pa.RecordBatch]:
        has_quotes = self.form.quotes == "double"
        # The stream is closed with the reader, before the file is opened a second time.
        with pacsv.open_csv(
            self.filesystem.open_input_stream(file.path),
            # Ray Data runs one task per CPU already; threads of Arrow would only contend with them.
            pacsv.ReadOptions(
                block_size=block_bytes,
                use_threads=False,
                column_names=None if self.form.header else list(names),
            ),
            pacsv.ParseOptions(
                delimiter=self._delimiter(file),
                quote_char='"' if has_quotes else False,
                newlines_in_values=has_quotes,
                invalid_row_handler=on_invalid_row,
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=list(self.missing_values),
                strings_can_be_null=True,
            ),
        ) as reader:
            yield from reader

    def _delimiter(self, file: SourceFile) -> str:
        return self.form.delimiter or ("\t" if plain_suffix(file.name) == ".tsv" else ",")
