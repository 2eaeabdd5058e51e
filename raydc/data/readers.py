"""Reads source files into tables of raw rows, each with its stable id. Runs in tasks of Ray Data.

Cells of CSV and JSON Lines are text, Parquet keeps its types, and images are decoded. Every error
names the file and the row in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydc.data import (
    array_formats,
    date_cells,
    file_kind,
    image_formats,
    list_texts,
    parquet_format,
    partitions,
    plain_texts,
    row_faults,
    row_places,
    sources,
    text_formats,
    values,
)
from raydc.data.csv_format import CsvReader
from raydc.data.image_formats import ImageDecoder
from raydc.data.joins import Joins, JoinSource, data_of
from raydc.data.label_reader import LabelReader
from raydc.data.layout import Format, Layout, SourceFile, first_row_id, name_errors
from raydc.data.nested_cells import NestedCells
from raydc.data.row_digest import digest_rows
from raydc.errors import DataError
from raydc.order import Ids
from raydc.spec.sections import Data

Tables = Iterable[pa.Table]

_PARTITIONED = ("csv", "parquet", "jsonl")
_SAME_COLUMNS = "All files of a source must have the same columns."


@dataclass(frozen=True)
class Reader:
    """Reads pieces of sources as the spec wants them.

    It is pickled with every piece, so it holds no list of files.

    Attributes:
        format: Format of the files, which is the same for all.
        filesystem: Filesystem that holds the files.
        data: Section `data` of the spec.
        first_path: Path of the first file, for messages.
        header: Columns of the first file, which all files must have; None for formats without
            a header.
        as_shown: Whether images become what a viewer shows (see `images.to_pixels`).
        joins: Tables that are joined to the rows; None for none.
        nested: Which cells of JSON may be lists or objects of any kind.
    """

    format: Format
    filesystem: pafs.FileSystem
    data: Data
    first_path: str
    header: tuple[str, ...] | None = None
    as_shown: bool = True
    joins: Joins | None = None
    nested: NestedCells = field(default_factory=NestedCells)

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
        nested = NestedCells.of(data)
        reader = cls(
            layout.format, layout.filesystem, data, file.path, as_shown=as_shown, nested=nested
        )
        if data.joins:
            reader = replace(reader, joins=_joins_of(data))
        if layout.format == "csv":
            with name_errors(file.path):
                names = reader._csv.column_names(file)
            return replace(reader, header=tuple(names))
        if layout.format == "parquet":
            with parquet_format.open_file(layout.filesystem, file.path) as parquet:
                names = parquet_format.own_names(parquet.schema_arrow)
                return replace(reader, header=tuple(names))
        return reader

    @property
    def _csv(self) -> CsvReader:
        missing_values = tuple(self.data.clean.missing_values)
        return CsvReader(self.filesystem, self.data.csv, missing_values, self._keeps_faulty)

    @property
    def _keeps_faulty(self) -> bool:
        return self.data.clean.on_error != "fail"

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
        read = {
            "csv": self._read_csv,
            "jsonl": self._read_json_lines,
            "idx": self._read_idx,
            "numpy": self._read_numpy,
            "tar": self._read_tar,
            "text": self._read_documents,
        }
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
            keeps_files=self.data.image_storage != "decoded",
        )

    def _check_header(self, file: SourceFile, names: Sequence[str]) -> None:
        values.refuse_internal(file.path, names)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file.path}: there are two columns {twice!r}", "Rename one of them.")
        for name in self.header or ():
            if name not in names:
                raise DataError(
                    f"{file.path}: there is no column {name!r}, which {self.first_path} has",
                    _SAME_COLUMNS,
                )
        for name in names:
            if name not in (self.header or names):
                raise DataError(
                    f"{file.path}: there is a column {name!r}, which {self.first_path} lacks",
                    _SAME_COLUMNS,
                )

    def _read_whole(
        self, read: Callable[[SourceFile], Tables], index: int, file: SourceFile
    ) -> Tables:
        """Adds row ids to the tables of one file, which `read` yields in the order of the rows."""
        first_id = first_row_id(index)
        num_rows = 0
        with file_kind.name_faults(self.filesystem, file.path, self.format):
            for table in read(file):
                if values.ROW_ID not in table.column_names:
                    ids = np.arange(
                        first_id + num_rows, first_id + num_rows + table.num_rows, dtype=np.int64
                    )
                else:
                    ids = values.row_ids(table) + first_id
                num_rows += table.num_rows
                yield self._finish_table(table, ids, file)

    def _finish_table(
        self,
        table: pa.Table,
        ids: Ids,
        file: SourceFile,
        describe: Callable[[int], str] | None = None,
    ) -> pa.Table:
        """Brings a table into the form that all formats share: ids, few types, decoded images."""
        columns = {
            name: table.column(name) for name in table.column_names if not values.is_internal(name)
        }
        if self.format in _PARTITIONED and self.data.partitioning != "ignore":
            columns |= partitions.read_columns(file, columns, len(ids))
        internal: dict[str, pa.ChunkedArray] = {}
        if self.joins is not None:
            # A block of JSON Lines may lack a column that others have.
            columns = self.joins.add_to(file.path, columns, len(ids), self.format == "jsonl")
            internal[values.UNMATCHED] = columns.pop(values.UNMATCHED)
        faults: dict[int, str] | None = {} if self._keeps_faulty else None
        place = describe or partial(file.describe_row, self.format)
        for name in columns:
            declared = self.data.features.columns.get(name)
            if declared == "categorical":
                columns[name] = values.dates_as_texts(columns[name])
            simple = values.simplify(columns[name])
            if declared == "date":
                columns[name] = date_cells.to_seconds(name, simple, ids, place, faults)
                continue
            if declared == "list":
                simple = list_texts.read_lists(name, simple, ids, place, faults)
            columns[name] = self._decode_images(name, simple, ids, place, faults)
        if self.data.task == "multilabel":

            def place_of(row: int) -> str:
                return place(int(ids[row]))

            columns = LabelReader(self.data, place_of, faults).read(columns)
        # Excluded columns count here: rows that differ in an identifier only are not duplicates.
        if self.data.clean.duplicates == "drop":
            digests = pa.array(digest_rows(columns, len(ids)), pa.binary(16))
            columns[values.DIGEST] = pa.chunked_array([digests])
        for name in self.data.features.exclude:
            if name in columns and name not in (self.data.split.own_column, self.data.query):
                # Only the name is needed from here on, to check `data.features.exclude`.
                columns[name] = pa.nulls(len(ids))
        if faults is not None:
            columns[values.FAULT] = row_faults.merged(table, faults)
        return pa.table({values.ROW_ID: ids, **columns, **internal})

    def _decode_images(
        self,
        name: str,
        column: pa.ChunkedArray,
        ids: Ids,
        describe: Callable[[int], str],
        faults: dict[int, str] | None,
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
        return self._decoder.decode_cells(name, column, ids, describe, faults)

    def _read_csv(self, file: SourceFile) -> Tables:
        names = self._csv.column_names(file)
        self._check_header(file, names)
        yield from self._csv.tables(file, names)

    def _read_json_lines(self, file: SourceFile) -> Tables:
        return text_formats.read_json_lines(self.filesystem, file, self._keeps_faulty, self.nested)

    def _read_idx(self, file: SourceFile) -> Tables:
        return image_formats.read_idx_pair(self.filesystem, file, self._decoder)

    def _read_numpy(self, file: SourceFile) -> Tables:
        return array_formats.read_numpy(self.filesystem, file, self._decoder)

    def _read_tar(self, file: SourceFile) -> Tables:
        return array_formats.read_tar(self.filesystem, file, self.nested)

    def _read_documents(self, file: SourceFile) -> Tables:
        return plain_texts.read_documents(self.filesystem, file, self.data.blocks.documents)

    def _read_image_folder(self, numbered: list[tuple[int, SourceFile]]) -> Tables:
        table, ids = image_formats.read_image_files(
            self.filesystem, numbered, self._decoder, self._keeps_faulty
        )
        yield self._finish_table(table, ids, numbered[0][1])

    def _parquet_pieces(self, index: int, file: SourceFile) -> list[Callable[[], Tables]]:
        with parquet_format.open_file(self.filesystem, file.path) as parquet:
            self._check_header(file, parquet_format.own_names(parquet.schema_arrow))
            starts = parquet_format.group_starts(parquet)
        return [
            partial(self._read_row_group, file, group, start, first_row_id(index))
            for group, start in enumerate(starts)
        ]

    def _read_row_group(self, file: SourceFile, group: int, start: int, file_id: int) -> Tables:
        for table, first in parquet_format.read_group(
            self.filesystem, file, group, start, self._keeps_faulty
        ):
            ids = np.arange(table.num_rows, dtype=np.int64) + first + file_id
            describe: Callable[[int], str] = partial(file.describe_row, self.format)
            if values.ROW_ID in table.column_names:
                ids = values.row_ids(table) + file_id
                # The driver knows their keys.
                describe = row_places.place_of
            yield self._finish_table(table, ids, file, describe)


def _joins_of(data: Data) -> Joins:
    """The tables that are joined to the rows; none of their rows is read yet."""
    found = []
    for join in data.joins:
        table = data_of(join, data)
        layout = sources.locate(table)
        if layout.format not in _PARTITIONED:
            raise DataError(f"data.joins: {join.path} holds {layout.format} files, and no table")
        pieces = Reader.for_layout(layout, table).pieces(layout.files)
        found.append(JoinSource(join, tuple(pieces), layout.describe_row))
    return Joins(tuple(found), uuid.uuid4().hex)
