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

from raydc.data import csv_rows, csv_text, file_kind
from raydc.data.csv_rows import RaggedRows
from raydc.data.layout import SourceFile, plain_suffix
from raydc.errors import DataError, shown
from raydc.spec.data import Csv

# Arrow parses a block at a time, so the first size bounds the memory of a reader. A row must fit
# into a block; for a longer row, blocks grow up to the second size.
_BLOCK_BYTES = 4 * 1024 * 1024
_MAX_BLOCK_BYTES = 256 * 1024 * 1024
_BLOCK_GROWTH = 8
_OTHER_DELIMITERS = (";", "\t", "|")
_OPEN_QUOTE = "A quote that is never closed joins all lines after it."
_QUOTES_HINT = "If quotes are plain characters in this file, set data.csv.quotes: none."


@dataclass(frozen=True)
class CsvReader:
    """Reads CSV files of one form.

    Attributes:
        filesystem: Filesystem that holds the files.
        form: Section `data.csv` of the spec.
        missing_values: Texts of cells that become null.
        keeps_faulty: Whether a row that cannot be read is yielded, with the fault, instead of an
            error.
    """

    filesystem: pafs.FileSystem
    form: Csv
    missing_values: tuple[str, ...]
    keeps_faulty: bool = False

    def column_names(self, file: SourceFile) -> list[str]:
        """Names of the columns of a file: those of its header, or `column_1` and so on.

        Raises:
            DataError: The file is empty or not UTF-8 text, it names a column twice, or a different
                character separates its cells.
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
            first = names.index(twice)
            second = names.index(twice, first + 1)
            raise DataError(
                f"{file.path}: the header names {twice!r} twice, in columns {first + 1} and "
                f"{second + 1}",
                "Rename one. If the file has no header, set data.csv.header: false.",
            )
        return names

    def _first_row(self, file: SourceFile) -> list[str]:
        with self.filesystem.open_input_stream(file.path) as stream:
            file_kind.refuse_other_kind(file.path, stream.read(file_kind.HEAD_BYTES), "csv")
        with (
            csv_text.open_utf8(self.filesystem, file.path, self.form) as stream,
            # utf-8-sig drops the byte order mark that Excel writes. It decodes beyond the first
            # row, so bytes that are not UTF-8 are let through and checked in the first row only.
            io.TextIOWrapper(
                stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as text,
        ):
            try:
                rows = csv.reader(
                    text,
                    delimiter=self._delimiter(file),
                    quoting=csv.QUOTE_NONE if self.form.quotes == "none" else csv.QUOTE_MINIMAL,
                )
                names = next(rows, [])
                "".join(names).encode()
                if any("\0" in name for name in names):
                    raise DataError(
                        f"{file.path}: the first row has NUL bytes",
                        "If it is UTF-16 text without a mark, set data.csv.encoding: utf-16.",
                    )
                return names
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{file.path}: not UTF-8 text: the first row has other bytes",
                    "If it comes from Windows, set data.csv.encoding: cp1252.",
                ) from error
            except csv.Error as error:
                raise DataError(f"{file.path}: line 1: {error}", _QUOTES_HINT) from error

    def _refuse_other_delimiter(self, file: SourceFile, names: Sequence[str]) -> None:
        if self.form.delimiter is not None or len(names) > 1:
            return
        has_tabs = self._delimiter(file) == "\t"
        others = (",", *_OTHER_DELIMITERS) if has_tabs else _OTHER_DELIMITERS
        other = next((sign for sign in others if sign in names[0]), None)
        if other is not None:
            raise DataError(
                f"{file.path}: its only column is {shown(names[0])}: there are no "
                f"{'tabs' if has_tabs else 'commas'}, but {shown(other)} between the names",
                f"Set data.csv.delimiter: {other!r}. If numbers have a decimal comma, set "
                "data.csv.decimal: ',' as well.",
            )

    def tables(self, file: SourceFile, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yields the rows of a file in their order, every cell as text.

        Args:
            file: File to read; `.tsv` has tabs between its cells.
            names: Columns of the file, in the order of the cells.

        Raises:
            DataError: A row has a different number of cells than the header, or is too large, or a
                cell is not UTF-8 text.
            pa.ArrowInvalid: The file is broken in another way.
        """
        ragged: list[Any] = []

        def on_invalid_row(row: Any) -> str:
            # Arrow's own message lacks the number of the row and its start.
            ragged.append(row)
            return "skip" if self.keeps_faulty else "error"

        places = RaggedRows(self.form.header)

        num_rows, block_bytes, last = 0, _BLOCK_BYTES, None
        while True:
            num_known = num_rows
            try:
                # After a row that is too large the file is read again, without the rows before it.
                for batch in self._open(file, names, block_bytes, on_invalid_row):
                    rows = batch.slice(min(num_known, batch.num_rows))
                    num_known -= batch.num_rows - rows.num_rows
                    if rows.num_rows:
                        table = pa.Table.from_batches([rows])
                        last = rows.column(rows.num_columns - 1)[-1].as_py()
                        if self.keeps_faulty:
                            table = places.add_ids(table, ragged)
                        table = csv_rows.as_text(
                            file.path, table, num_rows, self.keeps_faulty, self._encoding
                        )
                        has_commas = self.form.decimal == ","
                        yield csv_text.with_decimal_points(table) if has_commas else table
                    num_rows += rows.num_rows
                if ragged:
                    yield places.rest(names, ragged)
                self._refuse_open_quotes(file, last, num_rows + len(ragged))
                return
            except pa.ArrowInvalid as error:
                if ragged:
                    raise self._ragged_row(file, ragged[0]) from error
                if "straddl" not in str(error):
                    raise
                if block_bytes >= _MAX_BLOCK_BYTES:
                    raise DataError(
                        f"{file.path}: row {num_rows + 1} has more than {block_bytes:,} bytes",
                        f"{_OPEN_QUOTE} {_QUOTES_HINT}",
                    ) from error
                block_bytes = min(block_bytes * _BLOCK_GROWTH, _MAX_BLOCK_BYTES)

    def _ragged_row(self, file: SourceFile, row: Any) -> DataError:
        # Arrow counts the header as row 1.
        number = row.number - (1 if self.form.header else 0)
        what = "header" if self.form.header else "first row"
        first = "after the header" if self.form.header else "of the file"
        hint = f"The row starts with {shown(row.text[:50])}; row 1 is the first {first}."
        if "\n" in row.text.strip():
            hint += f" {_OPEN_QUOTE} {_QUOTES_HINT}"
        return DataError(
            f"{file.path}: row {number}: {row.actual_columns} cells, but the {what} has "
            f"{row.expected_columns}",
            hint,
        )

    def _refuse_open_quotes(self, file: SourceFile, last: bytes | None, num_rows: int) -> None:
        """Refuses a file whose last cell begins with a quote that nothing closes.

        Arrow takes all rows up to the end of the file for that cell.
        """
        if not last or (b"\n" not in last and b"\r" not in last):
            return
        if not csv_text.ends_in_quotes(self.filesystem, file.path, self.form):
            raise DataError(
                f"{file.path}: row {num_rows}: its last cell begins with a quote, and holds the "
                f"rest of the file: {shown(last.decode(errors='backslashreplace'))}",
                f"{_OPEN_QUOTE} {_QUOTES_HINT}",
            )

    @property
    def _encoding(self) -> str:
        is_utf8 = self.form.encoding in ("auto", "utf-8", "utf-16")
        return csv_rows.UTF8 if is_utf8 else self.form.encoding

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
            csv_text.open_utf8(self.filesystem, file.path, self.form),
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
                # Bytes at first: `as_text` reports cells that are not UTF-8, with row and column.
                column_types=dict.fromkeys(names, pa.binary()),
                null_values=list(self.missing_values),
                strings_can_be_null=True,
            ),
        ) as reader:
            yield from reader

    def _delimiter(self, file: SourceFile) -> str:
        return self.form.delimiter or ("\t" if plain_suffix(file.name) == ".tsv" else ",")
