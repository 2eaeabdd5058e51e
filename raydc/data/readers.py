"""Reads source files into tables of raw rows, each with its stable id.

Cells of CSV and JSON Lines are text, so that no type depends on the rows that a reader happened to see first.
Parquet keeps its types; images are decoded. Every error names the file and the row in it.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydc.data import values
from raydc.data.parse import digests, json_row, read_idx
from raydc.data.sources import Format, Layout, SourceFile, first_row_id, named, plain_suffix
from raydc.errors import DataError, shown
from raydc.features import images
from raydc.order import Ids
from raydc.spec.sections import Data

_ROWS_PER_TABLE = 16_384
_BYTES_PER_TABLE = 16 * 1024 * 1024
_IMAGES_PER_PIECE = 64
_CSV_BLOCK_BYTES = 4 * 1024 * 1024

Tables = Iterable[pa.Table]


@dataclass(frozen=True)
class Reader:
    """Reads pieces of sources as the spec wants them. It knows no files, as it travels with every piece.

    Attributes:
        format: Of all files.
        filesystem: Where they are.
        data: The spec's section.
        first: Path of the first file.
        header: Columns of the first file, which all files must have; None where a format has no header.
    """

    format: Format
    filesystem: pafs.FileSystem
    data: Data
    first: str
    header: tuple[str, ...] | None = None

    @classmethod
    def of(cls, layout: Layout, data: Data) -> Reader:
        """Looks at the first file, whose columns are those of all files.

        Raises:
            DataError: The file cannot be read.
        """
        file = layout.files[0]
        reader = cls(layout.format, layout.filesystem, data, file.path)
        if layout.format == "csv":
            with named(file.path):
                return replace(reader, header=tuple(reader._csv_header(file)))
        if layout.format == "parquet":
            with reader._parquet(file) as parquet:
                return replace(reader, header=tuple(parquet.schema_arrow.names))
        return reader

    def _check_header(self, file: SourceFile, names: list[str]) -> None:
        for name in self.header or ():
            if name not in names:
                raise DataError(f"{file.path}: there is no column {name!r}, which {self.first} has")
        for name in names:
            if name not in (self.header or names):
                raise DataError(
                    f"{file.path}: there is a column {name!r}, which {self.first} has not"
                )

    def pieces(self, files: Sequence[SourceFile]) -> list[Callable[[], Tables]]:
        """Calls that together give every row once: the finest pieces that can be read apart."""
        numbered = list(enumerate(files))
        if self.format == "image_folder":
            starts = range(0, len(numbered), _IMAGES_PER_PIECE)
            return [
                partial(self._image_files, numbered[start : start + _IMAGES_PER_PIECE])
                for start in starts
            ]
        if self.format == "parquet":
            return [
                piece for index, file in numbered for piece in self._parquet_pieces(index, file)
            ]
        read = {"csv": self._csv, "jsonl": self._json_lines, "idx": self._idx}[self.format]
        return [partial(self._finished, read, index, file) for index, file in numbered]

    def _finished(
        self, read: Callable[[SourceFile], Tables], index: int, file: SourceFile
    ) -> Tables:
        first_id = first_row_id(index)
        num_rows = 0
        with named(file.path):
            for table in read(file):
                if values.ROW_ID not in table.column_names:
                    ids = np.arange(
                        first_id + num_rows, first_id + num_rows + table.num_rows, dtype=np.int64
                    )
                else:
                    ids = values.row_ids(table) + first_id
                num_rows += table.num_rows
                yield self._finish(table, ids, file)
        if not num_rows:
            raise DataError(
                f"{file.path}: there are no rows in it", "Leave the file out, or write it again."
            )

    def _finish(self, table: pa.Table, ids: Ids, file: SourceFile) -> pa.Table:
        columns = {
            name: table.column(name) for name in table.column_names if not values.internal(name)
        }
        for name in columns:
            columns[name] = self._images(name, values.plain(columns[name]), ids, file)
        if self.data.clean.duplicates == "drop":
            row_digests = pa.array(digests(columns, len(ids)), pa.binary(16))
            columns[values.DIGEST] = pa.chunked_array([row_digests])
        for name in self.data.features.exclude:
            if name in columns:
                columns[name] = pa.nulls(len(ids))  # Its name is all that is still needed.
        return pa.table({values.ROW_ID: ids, **columns})

    def _images(
        self, name: str, column: pa.ChunkedArray, ids: Ids, file: SourceFile
    ) -> pa.ChunkedArray:
        """Decodes the cells of an image column; other columns stay as they are."""
        declared = self.data.features.columns.get(name)
        if column.type == values.IMAGE or name in (self.data.target, *self.data.features.exclude):
            return column
        if declared != "image" and (declared is not None or not _holds_images(column.type)):
            return column
        pixels = []
        for cell, row_id in zip(column.to_pylist(), ids, strict=True):
            cell = cell["bytes"] if isinstance(cell, dict) else cell
            try:
                pixels.append(None if cell is None else self._decode(cell))
            except ValueError as error:
                place = file.place(self.format, int(row_id))
                raise DataError(f"{place}: {name}: not a readable image: {error}") from error
        return pa.chunked_array([values.image_array(pixels)])

    def _decode(self, cell: Any) -> images.Pixels:
        size = self.data.features.image_size
        return images.decode(
            cell, (size[0], size[1]) if size else None, self.data.features.image_channels
        )

    def _open(self, file: SourceFile) -> pa.NativeFile:
        return self.filesystem.open_input_stream(file.path)

    # CSV ----------------------------------------------------------------------------------------------

    def _csv(self, file: SourceFile) -> Tables:
        names = self._csv_header(file)
        self._check_header(file, names)
        ragged: list[Any] = []

        def on_invalid_row(row: Any) -> str:
            ragged.append(row)
            return "error"

        try:
            yield from self._csv_batches(file, names, on_invalid_row)
        except pa.ArrowInvalid as error:
            if not ragged:
                raise
            row = ragged[0]
            message = f"{file.path}: row {row.number - 1}: {row.actual_columns} cells, but the header has "
            hint = (
                f"The row begins {shown(row.text[:50])}; rows are counted from 1, after the header."
            )
            raise DataError(f"{message}{row.expected_columns}", hint) from error

    def _csv_batches(
        self, file: SourceFile, names: list[str], on_invalid_row: Callable[[Any], str]
    ) -> Tables:
        reader = pacsv.open_csv(
            self._open(file),
            pacsv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False),
            pacsv.ParseOptions(
                delimiter=_delimiter(file),
                newlines_in_values=True,
                invalid_row_handler=on_invalid_row,
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=self.data.clean.missing_values,
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])

    def _csv_header(self, file: SourceFile) -> list[str]:
        with (
            self._open(file) as stream,
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        ):
            try:
                names = next(csv.reader(text, delimiter=_delimiter(file)), [])
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file.path}: not UTF-8 text: {error.reason}", "Convert it to UTF-8."
                ) from error
        if not names:
            raise DataError(
                f"{file.path}: the file is empty", "The first line of a CSV file names its columns."
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file.path}: the header holds {twice!r} twice")
        return names

    # JSON Lines ---------------------------------------------------------------------------------------

    def _json_lines(self, file: SourceFile) -> Tables:
        with self._open(file) as stream, io.BufferedReader(stream) as lines:
            numbered = enumerate(lines)
            while chunk := list(itertools.islice(numbered, _ROWS_PER_TABLE)):
                rows = [
                    (number, json_row(file.path, number, line))
                    for number, line in chunk
                    if line.strip()
                ]
                names = dict.fromkeys(name for _, row in rows for name in row)
                columns = {
                    name: pa.array([row.get(name) for _, row in rows], pa.string())
                    for name in names
                }
                # Blank lines leave gaps, so that an id stays the number of its line.
                yield pa.table(
                    {values.ROW_ID: pa.array([number for number, _ in rows], pa.int64()), **columns}
                )

    # Parquet ------------------------------------------------------------------------------------------

    @contextmanager
    def _parquet(self, file: SourceFile) -> Iterator[pq.ParquetFile]:
        with named(file.path), self.filesystem.open_input_file(file.path) as stream:
            yield pq.ParquetFile(stream)

    def _parquet_pieces(self, index: int, file: SourceFile) -> list[Callable[[], Tables]]:
        with self._parquet(file) as parquet:
            self._check_header(file, parquet.schema_arrow.names)
            sizes = [
                parquet.metadata.row_group(group).num_rows
                for group in range(parquet.num_row_groups)
            ]
        starts = itertools.accumulate(sizes, initial=first_row_id(index))
        return [
            partial(self._row_group, file, group, start)
            for group, start in enumerate(starts)
            if group < len(sizes)
        ]

    def _row_group(self, file: SourceFile, group: int, first_id: int) -> Tables:
        with self._parquet(file) as parquet:
            for batch in parquet.iter_batches(
                _ROWS_PER_TABLE, row_groups=[group], use_threads=False
            ):
                ids = np.arange(first_id, first_id + batch.num_rows, dtype=np.int64)
                yield self._finish(pa.Table.from_batches([batch]), ids, file)
                first_id += batch.num_rows

    # Images -------------------------------------------------------------------------------------------

    def _image_files(self, numbered: list[tuple[int, SourceFile]]) -> Tables:
        pixels: list[images.Pixels | None] = []
        ids: list[int] = []
        labels: list[str] = []
        for index, file in numbered:
            with named(file.path), self._open(file) as stream:
                content = stream.read()
            try:
                pixels.append(self._decode(content))
            except ValueError as error:
                reason = "the file is empty" if not content else f"not a readable image: {error}"
                raise DataError(
                    f"{file.path}: {reason}", "Remove the file, or replace it."
                ) from error
            ids.append(first_row_id(index))
            labels.append(file.label or "")
        table = pa.table({"image": values.image_array(pixels), "label": labels})
        yield self._finish(table, np.array(ids, dtype=np.int64), numbered[0][1])

    def _idx(self, file: SourceFile) -> Tables:
        if file.labels is None:
            raise DataError(f"{file.path}: there are no labels for it")
        pixels = read_idx(self._read(file), file.path, 3)
        with named(file.labels.path):
            labels = read_idx(self._read(file.labels), file.labels.path, 1)
        if len(pixels) != len(labels):
            raise DataError(
                f"{file.path}: {len(pixels)} images, but {len(labels)} labels in {file.labels.path}"
            )
        step = max(1, _BYTES_PER_TABLE // max(1, pixels[:1].size))
        texts = labels.astype(str)
        for start in range(0, len(pixels), step):
            part = self._idx_images(pixels[start : start + step])
            yield pa.table({"image": part, "label": texts[start : start + step]})

    def _idx_images(self, pixels: Any) -> pa.Array:
        features = self.data.features
        if features.image_size in (None, list(pixels.shape[1:])) and features.image_channels in (
            None,
            1,
        ):
            return values.image_block(pixels)
        return values.image_array([self._decode(image) for image in pixels])

    def _read(self, file: SourceFile) -> bytes:
        with self._open(file) as stream:
            return bytes(stream.read())


def _delimiter(file: SourceFile) -> str:
    return "\t" if plain_suffix(file.name) == ".tsv" else ","


def _holds_images(column_type: pa.DataType) -> bool:
    if pa.types.is_struct(column_type):
        return bool(column_type.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))
