"""A look at the first rows of a source, for the draft of a spec. Runs in the driver, without Ray.

Nothing here decides for a run: preparation looks at all rows. What is guessed here stands in the
draft, with its reason, for its user to change.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from raydc.data import sources, text_shapes, values
from raydc.data.column_scan import ColumnScan, merge_scans, scan_block
from raydc.data.layout import Layout
from raydc.data.nested_cells import NestedCells
from raydc.data.readers import Reader
from raydc.errors import DataError, shown
from raydc.spec.data import Data

MAX_ROWS = 20_000
# Images are decoded to learn their sizes, which takes time.
_MAX_IMAGES = 256
# A column of texts with more values than this part of its rows tells rows apart.
_IDENTIFIER_FRACTION = 0.5
_MIN_ROWS_OF_IDENTIFIER = 20
# Whole numbers with more distinct values than this are amounts rather than classes.
_MAX_CLASSES_OF_NUMBERS = 20
# As many categories get an input each by default; more distinct sentences are free text.
_MIN_TEXTS = 128
_NO_VALUE = "has no value in the rows that were looked at"
# Enough to tell dates from names.
_MAX_SAMPLES = 1000


@dataclass(frozen=True)
class ColumnLook:
    """What a column holds in the first rows.

    Attributes:
        name: Name of the column in the source.
        kind: `numeric`, `date`, `categorical`, `text`, `image`, `list`, `array` for lists of a
            fixed size, or `other` for a type that cannot be an input.
        counts: Rows by value, as text; without missing ones, and empty for images, lists and
            arrays.
        num_missing: Rows without a value.
        markers: Texts that stand where a number or date is missing, such as `?`.
        fault: Why it should not be an input; None if it may be one.
        sizes: Distinct sizes of its images, (height, width) each.
    """

    name: str
    kind: str
    counts: Counter[str]
    num_missing: int = 0
    markers: tuple[str, ...] = ()
    fault: str | None = None
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def is_amount(self) -> bool:
        """Whether its numbers are rather amounts than classes."""
        if self.kind != "numeric":
            return False
        is_whole = all(float(value).is_integer() for value in self.counts)
        return not is_whole or len(self.counts) > _MAX_CLASSES_OF_NUMBERS


@dataclass(frozen=True)
class FirstLook:
    """What the first rows of a source show.

    Attributes:
        layout: Files of the source, of which some were read.
        num_rows: Rows that were read.
        is_whole: Whether these are all rows.
        columns: Columns in the order of the source.
    """

    layout: Layout
    num_rows: int
    is_whole: bool
    columns: tuple[ColumnLook, ...]

    def find(self, name: str) -> ColumnLook | None:
        """The column of a name; None if there is none."""
        return next((column for column in self.columns if column.name == name), None)


def take_first_look(data: Data) -> FirstLook:
    """Reads the first rows of a source.

    Args:
        data: Section `data` of a spec with an absolute source.

    Raises:
        DataError: There are no files, or they cannot be read.
    """
    layout = sources.locate(data)
    reader = replace(Reader.for_layout(layout, data), nested=NestedCells(is_look=True))
    files, most = layout.files, MAX_ROWS
    if layout.format in ("image_folder", "idx", "tar"):
        most = _MAX_IMAGES
        # Images spread over all classes: the first files are all of one class.
        if layout.format == "image_folder":
            files = files[:: max(1, len(files) // most)]
    tables, is_whole = _read_first(
        itertools.chain.from_iterable(piece() for piece in reader.pieces(files)), most
    )
    scan = merge_scans(scan_block(table) for table in tables)
    if not scan.num_rows:
        raise DataError(f"{layout.files[0].path}: there are no rows")
    columns = tuple(
        _look_at(name, column, tables, scan.num_rows, layout.format == "csv")
        for name, column in scan.columns.items()
    )
    return FirstLook(layout, scan.num_rows, is_whole and len(files) == len(layout.files), columns)


def _read_first(found: Iterator[pa.Table], most: int) -> tuple[list[pa.Table], bool]:
    """The first rows as tables, and whether there are no others."""
    tables: list[pa.Table] = []
    num_rows = 0
    for table in found:
        part = table.slice(0, most - num_rows)
        if part.num_rows:
            tables.append(part)
            num_rows += part.num_rows
        if part.num_rows < table.num_rows:
            return tables, False
    return tables, True


def _look_at(
    name: str, column: ColumnScan, tables: Sequence[pa.Table], num_rows: int, is_csv: bool
) -> ColumnLook:
    if "other" in column.kinds:
        reason = f"holds {column.arrow_type}, which cannot be an input"
        return ColumnLook(name, "other", Counter(), fault=reason)
    if "list" in column.kinds:
        # Empty lists have no shape, and preparation refuses a column of them.
        fault = None if column.shapes else _NO_VALUE
        kind = "array" if _are_arrays(name, tables) else "list"
        return ColumnLook(name, kind, Counter(), column.missing.count, fault=fault)
    if "image" in column.kinds:
        shapes = [tuple(map(int, shape.split("x"))) for shape in column.shapes]
        sizes = tuple((height, width) for height, width, *_ in shapes)
        return ColumnLook(name, "image", Counter(), column.missing.count, sizes=sizes)
    texts = [
        text
        for table in tables
        if name in table.column_names
        for text in values.to_texts(values.column_of(table, name))
    ]
    counts = Counter(text for text in texts if text is not None)
    # `data.clean.missing_values` is about cells of CSV files; other formats have nulls.
    markers: tuple[str, ...] = ()
    is_numeric = bool(counts) and not column.wrong.count
    if is_csv and not is_numeric:
        markers = _markers_of_missing(counts, text_shapes.is_plain_number)
        is_numeric = bool(markers)
        markers = markers or _markers_of_missing(counts, text_shapes.is_iso_date)
    counts = Counter({text: count for text, count in counts.items() if text not in markers})
    kind = "numeric" if is_numeric else "categorical"
    # A few distinct sentences are answers to choose from, and so categories.
    if kind == "categorical" and len(counts) >= _MIN_TEXTS and text_shapes.are_free_texts(counts):
        return ColumnLook(name, "text", counts, num_rows - sum(counts.values()), markers)
    if kind == "categorical" and len(counts) > 2 and all(map(text_shapes.is_iso_date, counts)):
        return ColumnLook(name, "date", counts, num_rows - sum(counts.values()), markers)
    rises = column.rising.is_whole and column.rising.rises
    fault = _fault(name, kind, counts, rises)
    return ColumnLook(name, kind, counts, num_rows - sum(counts.values()), markers, fault)


def _are_arrays(name: str, tables: Sequence[pa.Table]) -> bool:
    found = [values.column_of(table, name) for table in tables if name in table.column_names]
    return all(pa.types.is_fixed_size_list(column.type) for column in found)


def _markers_of_missing(counts: Counter[str], is_value: Callable[[str], bool]) -> tuple[str, ...]:
    """The texts among numbers or dates, if all of them mean a missing one; else none."""
    others = sorted(text for text in counts if not is_value(text))
    is_missing = all(
        not text.strip() or text.strip() in text_shapes.MISSING_WORDS for text in others
    )
    return tuple(others) if is_missing and len(others) < len(counts) else ()


def _fault(name: str, kind: str, counts: Counter[str], rises: bool) -> str | None:
    """Why a column should not be an input; None if it may be one."""
    num_values, num_different = sum(counts.values()), len(counts)
    if not counts:
        return _NO_VALUE
    if num_values < _MIN_ROWS_OF_IDENTIFIER:
        return None
    differs = f"{num_different:,} distinct values in {num_values:,} rows"
    if kind == "numeric":
        numbers = sorted(map(float, counts)) if rises else []
        if rises and (
            text_shapes.is_identifier_name(name) or numbers[-1] - numbers[0] == len(numbers) - 1
        ):
            return "numbers the rows"
        if text_shapes.is_identifier_name(name) and num_different > 0.9 * num_values:
            return f"named like an identifier: {differs}"
        return None
    samples = sorted(counts)[:_MAX_SAMPLES]
    example = shown(samples[0], 40)
    if num_different > 2 and text_shapes.are_mostly(samples, text_shapes.is_date):
        return f"dates or times ({example}), which raydc would take as {num_different:,} categories"
    if num_different > 2 and text_shapes.are_mostly(samples, text_shapes.is_number_with_signs):
        return f"numbers with separators or signs ({example}), which raydc would take as categories"
    if num_different > _IDENTIFIER_FRACTION * num_values:
        return f"an identifier or a text: {differs}"
    return None
