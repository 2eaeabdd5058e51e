"""Reads source files into tables of raw rows, each with its stable id. Runs in tasks of Ray Data.

Cells of CSV and JSON Lines are text, Parquet keeps its types, and images are decoded. Every error
names the file and the row in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydc.data import image_formats, partitions, text_formats, values
from raydc.data.csv_format import CsvReader
from raydc.data.image_formats import ImageDecoder
from raydc.data.layout import Format, Layout, SourceFile, first_row_id, name_errors
from raydc.data.row_digest import digest_rows
from raydc.errors import DataError
from raydc.order import Ids
from raydc.spec.sections import Data

Tables = Iterable[pa.Table]


@dataclass(frozen=True)
class Reader:
    """Reads pieces of sources as the spec wants them.

    It is pickled with every piece, so it holds no list of files.

    Attributes:
        format: Format of all files.
        filesystem: Filesystem of all files.
        data: Section `data` of the spec.
        first_path: Path of the first file, for messages.
        header: Columns of the first file, which all files must have; None for formats without
            a header.
        as_shown: Whether images become what a viewer shows (see `images.to_pixels`).
    """

    format: Format
    filesystem: pafs.FileSystem
    data: Data
    first_path: str
    header: tuple[str, ...] | None = None
    as_shown: bool = True

    @classmethod
    def for_layout(cls, layout: Layout, data: Data, as_shown: bool = True) -> Reader:
        """Makes a reader; reads the header of the first file.

        Args:
            layout: Files of the source, with their format and filesystem.
            data: Section `data` of the spec, for missing values and the size of images.
            as_shown: Whether images become what a viewer shows. A model of an older raydc was
                trained on images that did not.

        Raises:
            DataError: The first file cannot be read.
        """
        file = layout.files[0]
        reader = cls(layout.format, layout.filesystem, data, file.path, as_shown=as_shown)
        if layout.format == "csv":
            with name_errors(file.path):
                names = reader._csv.column_names(file)
            return replace(reader, header=tuple(names))
        if layout.format == "parquet":
            with reader._open_parquet(file) as parquet:
                return replace(reader, header=tuple(parquet.schema_arrow.names))
        return reader

    @property
    def _csv(self) -> CsvReader:
        missing_values = tuple(self.data.clean.missing_values)
        return CsvReader(self.filesystem, self.data.csv, missing_values)

    def pieces(self, files: Sequence[SourceFile]) -> list[Callable[[], Tables]]:
        """Splits files into the smallest pieces that can be read on their own.

        Args:
            files: All files of the layout: a row's id holds the index of its file.

        Returns:
            Calls that together yield every row once: a file of text or IDX, a row group of
            Parquet, or some images of a folder.
        """
        numbered = list(enumerate(files))
        if self.format == "image_folder":
            per_piece = image_formats.IMAGES_PER_PIECE
            return [
                partial(self._read_image_folder, numbered[start : start + per_piece])
                for start in range(0, len(numbered), per_piece)
            ]
        if self.format == "parquet":
            return [
                piece for index, file in numbered for piece in self._parquet_pieces(index, file)
            ]
        read = {"csv": self._read_csv, "jsonl": self._read_json_lines, "idx": self._read_idx}
        return [
            partial(self._read_whole, read[self.format], index, file) for index, file in numbered
        ]

    @property
    def _decoder(self) -> ImageDecoder:
        size = self.data.features.image_size
        return ImageDecoder(
            (size[0], size[1]) if size else None,
            self.data.features.image_channels,
            self.as_shown,
        )

    def _check_header(self, file: SourceFile, names: Sequence[str]) -> None:
        values.refuse_internal(file.path, names)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file.path}: there are two columns {twice!r}", "Rename one of them.")
        for name in self.header or ():
            if name not in names:
                raise DataError(
                    f"{file.path}: there is no column {name!r}, which {self.first_path} has"
                )
        for name in names:
            if name not in (self.header or names):
                raise DataError(
                    f"{file.path}: there is a column {name!r}, which {self.first_path} lacks"
                )

    def _read_whole(
        self, read: Callable[[SourceFile], Tables], index: int, file: SourceFile
    ) -> Tables:
        """Adds row ids to the tables of one file, which `read` yields in the order of the rows."""
        first_id = first_row_id(index)
        num_rows = 0
        with name_errors(file.path):
            for table in read(file):
                if values.ROW_ID not in table.column_names:
                    ids = np.arange(
                        first_id + num_rows, first_id + num_rows + table.num_rows, dtype=np.int64
                    )
                else:
                    ids = values.row_ids(table) + first_id
                num_rows += table.num_rows
                yield self._finish_table(table, ids, file)

    def _finish_table(self, table: pa.Table, ids: Ids, file: SourceFile) -> pa.Table:
        """Brings a table into the form that all formats share: ids, few types, decoded images."""
        columns = {
            name: table.column(name) for name in table.column_names if not values.is_internal(name)
        }
        columns |= self._folder_columns(file, columns, len(ids))
        for name in columns:
            columns[name] = self._decode_images(name, values.simplify(columns[name]), ids, file)
        # Excluded columns count here: rows that differ in an identifier only are no duplicates.
        if self.data.clean.duplicates == "drop":
            digests = pa.array(digest_rows(columns, len(ids)), pa.binary(16))
            columns[values.DIGEST] = pa.chunked_array([digests])
        for name in self.data.features.exclude:
            if name in columns:
                # Only the name is needed from here on, to check `data.features.exclude`.
                columns[name] = pa.nulls(len(ids))
        return pa.table({values.ROW_ID: ids, **columns})

    def _folder_columns(
        self, file: SourceFile, columns: Mapping[str, pa.ChunkedArray], num_rows: int
    ) -> dict[str, pa.ChunkedArray]:
        if self.format in ("image_folder", "idx") or self.data.partitioning == "ignore":
            return {}
        found = partitions.columns_of(file)
        values.refuse_internal(file.path, found)
        if both := found.keys() & columns.keys():
            raise DataError(
                f"{file.path}: the column {min(both)!r} is in the file and in the names of folders",
                "data.partitioning: ignore reads that of the file.",
            )
        return {
            name: pa.chunked_array([pa.repeat(pa.scalar(value, pa.string()), num_rows)])
            for name, value in found.items()
        }

    def _decode_images(
        self, name: str, column: pa.ChunkedArray, ids: Ids, file: SourceFile
    ) -> pa.ChunkedArray:
        """Decodes the cells of an image column; other columns stay as they are."""
        declared = self.data.features.columns.get(name)
        if column.type == values.IMAGE or name in (self.data.target, *self.data.features.exclude):
            return column
        if declared is not None and declared != "image":
            return column
        # Text may be base64 or a name, so a column of text must be declared an image.
        if declared is None and not image_formats.holds_images(column.type):
            return column
        return self._decoder.decode_cells(name, column, ids, file, self.format)

    def _read_csv(self, file: SourceFile) -> Tables:
        names = self._csv.column_names(file)
        self._check_header(file, names)
        yield from self._csv.tables(file, names)

    def _read_json_lines(self, file: SourceFile) -> Tables:
        return text_formats.read_json_lines(self.filesystem, file)

    def _read_idx(self, file: SourceFile) -> Tables:
        return image_formats.read_idx_pair(self.filesystem, file, self._decoder)

    def _read_image_folder(self, numbered: list[tuple[int, SourceFile]]) -> Tables:
        table, ids = image_formats.read_image_files(self.filesystem, numbered, self._decoder)
        yield self._finish_table(table, ids, numbered[0][1])

    @contextmanager
    def _open_parquet(self, file: SourceFile) -> Iterator[pq.ParquetFile]:
        with name_errors(file.path), self.filesystem.open_input_file(file.path) as stream:
            yield pq.ParquetFile(stream)

    def _parquet_pieces(self, index: int, file: SourceFile) -> list[Callable[[], Tables]]:
        with self._open_parquet(file) as parquet:
            self._check_header(file, parquet.schema_arrow.names)
            sizes = [
                parquet.metadata.row_group(group).num_rows
                for group in range(parquet.num_row_groups)
            ]
        # The footer knows the rows of each group, so that a group's ids need no other group.
        starts = itertools.accumulate(sizes, initial=first_row_id(index))
        return [
            partial(self._read_row_group, file, group, start)
            for group, start in enumerate(starts)
            if group < len(sizes)
        ]

    def _read_row_group(self, file: SourceFile, group: int, first_id: int) -> Tables:
        with self._open_parquet(file) as parquet:
            for batch in parquet.iter_batches(
                text_formats.ROWS_PER_TABLE, row_groups=[group], use_threads=False
            ):
                ids = np.arange(first_id, first_id + batch.num_rows, dtype=np.int64)
                yield self._finish_table(pa.Table.from_batches([batch]), ids, file)
                first_id += batch.num_rows
