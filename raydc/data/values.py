"""Raw Arrow columns as numbers, texts and images. Pure; used in tasks of Ray Data.

Text of a number counts as a number, so that CSV, JSON Lines and Parquet follow one rule. The type
of a column is a statement about all of its values and does not depend on where blocks are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raydc.data import list_values
from raydc.errors import DataError
from raydc.features.coded_texts import CodedTexts
from raydc.spec.label_text import text_of

ROW_ID = "__row_id"
DIGEST = "__digest"
# Mark in the metadata of a file whose ids are in it, with the name of its key.
KEYED = "raydc.key"
# What a reader found wrong with a row, see `raydc.data.row_faults`; null for other rows.
FAULT = "__fault"
# Number of the group in which a row is ranked, where the spec names such groups.
QUERY = "__query"
# Columns of windows of a series, see `raydc.data.window_cut`: past steps, values after them, the
# times of the first and the last of these values, and the place among all windows.
WINDOW, TARGETS, FIRST_TIME = "__window", "__targets", "__first_time"
LAST_TIME, ORDER = "__last_time", "__order"
# Bit i is set where a row has no match in the table i of `data.joins`.
UNMATCHED = "__unmatched"
_INTERNAL = frozenset(
    (ROW_ID, DIGEST, FAULT, QUERY, WINDOW, TARGETS, FIRST_TIME, LAST_TIME, ORDER, UNMATCHED)
)
# Large binary: a block of images may exceed the 2 GiB that 32-bit offsets reach.
IMAGE = pa.struct(
    [
        ("pixels", pa.large_binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        # The file that the pixels come from; null for arrays, and where only pixels are stored.
        ("file", pa.large_binary()),
    ]
)
# Numbers as `float` reads them, but not `1_000`, which is probably a code.
_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$"
_NOT_FINITE = r"^\s*[+-]?(?i:inf|infinity|nan)\s*$"
Floats = npt.NDArray[np.float64]


def is_internal(name: str) -> bool:
    """Whether raydc added a column of this name itself."""
    return name in _INTERNAL


def refuse_internal(path: str, names: Iterable[str]) -> None:
    """Refuses a file whose own columns have names that raydc gives.

    Raises:
        DataError: There is such a name.
    """
    for name in names:
        if is_internal(name):
            raise DataError(f"{path}: the column {name!r} has a name of raydc's own", "Rename it.")


def kind_of(column_type: pa.DataType) -> str:
    """Kind of a type: `number`, `text`, `image`, `list`, or `other` for objects and so on.

    A type of the kind `other` cannot be an input.
    """
    if column_type == IMAGE:
        return "image"
    if list_values.is_list(column_type):
        return "list"
    if (
        pa.types.is_integer(column_type)
        or pa.types.is_floating(column_type)
        or pa.types.is_decimal(column_type)
    ):
        return "number"
    return "text" if pa.types.is_string(column_type) or pa.types.is_null(column_type) else "other"


def dates_as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and times as they are written, where `simplify` makes seconds of them."""
    if isinstance(column.type, pa.DictionaryType):
        column = column.cast(column.type.value_type)
    if not pa.types.is_temporal(column.type):
        return column
    # Arrow writes as many places of a second as the type has, and other programs do not.
    return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+(Z?)$", r"\1")


def simplify(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Casts a column of a Parquet file to one of the few types that the other functions know.

    Columns of types that cannot be an input are returned as they are.
    """
    if isinstance(column.type, pa.DictionaryType):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    return _to_seconds(column) if pa.types.is_temporal(kind) else list_values.simplify(column)


def _to_seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Seconds of dates, times and durations, as numbers."""
    kind = column.type
    if pa.types.is_date32(kind):
        return pc.multiply(column.cast(pa.int32()).cast(pa.float64()), 86400.0)
    if pa.types.is_date64(kind):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64()), 1000.0)
    if pa.types.is_interval(kind):
        return column
    # Arrow casts `time32`, the only one of these types with 32 bits, to no other size.
    whole = column.cast(pa.int32()) if pa.types.is_time32(kind) else column
    per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
    return pc.divide(whole.cast(pa.int64()).cast(pa.float64(), safe=False), per_second)


def column_of(table: pa.Table, name: str) -> pa.Array:
    """A column as one array.

    It is all null if the table lacks the column: a key that no line of the block has.
    """
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    column = table.column(name)
    # A slice of a nested column keeps all values of its parent, which not all readers expect.
    if column.num_chunks == 1 and not pa.types.is_nested(column.type):
        return column.chunk(0)
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def row_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Ids of the rows of a table, int64 [B]."""
    return np.asarray(table.column(ROW_ID).to_numpy())


@dataclass(frozen=True)
class Parsed:
    """A column read as numbers.

    Attributes:
        values: float64 [B], NaN where a value is missing or wrong.
        wrong: bool [B], True if there is a value that is not a number.
        missing: bool [B], True if there is no value (null or NaN).
    """

    values: Floats
    wrong: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]


# A column whose texts occur this often on average is read by its distinct texts.
_FEW = 4


def parse_numbers(column: pa.Array) -> Parsed:
    """Reads a column of numbers or text as numbers."""
    if kind_of(column.type) == "number":
        if column.type != pa.float64():
            column = column.cast(pa.float64(), safe=False)
        values = column.to_numpy(zero_copy_only=False)
        # A null has become NaN.
        return Parsed(values, np.zeros(len(values), dtype=bool), np.isnan(values))
    # A column of categories is not read cell by cell to find that it has no numbers.
    encoded = column.cast(pa.string()).dictionary_encode(null_encoding="encode")
    if len(encoded.dictionary) * _FEW <= len(column):
        each, codes_B = _parse_texts(encoded.dictionary), np.asarray(encoded.indices)
        return Parsed(each.values[codes_B], each.wrong[codes_B], each.missing[codes_B])
    return _parse_texts(column.cast(pa.string()))


def _parse_texts(text: pa.Array) -> Parsed:
    null = np.asarray(text.is_null())
    # One vectorised cast instead of a `float` per cell; Arrow's cast takes neither "+1" nor " 1".
    finite = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
    special = pc.fill_null(pc.match_substring_regex(text, _NOT_FINITE), False)
    trimmed = pc.utf8_ltrim(pc.utf8_trim_whitespace(pc.if_else(finite, text, None)), "+")
    values = np.array(trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    # Arrow and Python differ in the spellings of infinity; such cells are rare.
    for row in np.flatnonzero(np.asarray(special)):
        values[row] = float(text[int(row)].as_py())
    number = np.asarray(finite) | np.asarray(special)
    return Parsed(values, ~number & ~null, null | (number & np.isnan(values)))


def missing_mask(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Marks the cells that are null or NaN, bool [B]."""
    nan_is_null = pa.types.is_floating(column.type)
    return np.asarray(column.is_null(nan_is_null=nan_is_null))


def has_line_break(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Marks the cells of text that have a line break, bool [B]."""
    if not pa.types.is_string(column.type):
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.fill_null(pc.match_substring(column, "\n"), False))


def coded_texts(column: pa.Array) -> CodedTexts:
    """Texts of the labels or categories of a column; None for a missing one."""
    return _coded(_with_codes(column).dictionary_encode(null_encoding="encode"))


def text_column(column: pa.Array) -> pa.Array:
    """The texts of `coded_texts` as a column of text; null for a missing one."""
    encoded = _with_codes(column).dictionary_encode(null_encoding="encode")
    texts = _coded(encoded)
    # Most columns of text hold their texts as they are written.
    if column.type == pa.string() and texts.distinct == encoded.dictionary.to_pylist():
        return column
    # Taken from the distinct texts: a list would hold an object of Python for each row.
    return pa.array(texts.distinct, pa.string()).take(pa.array(texts.codes_B))


def _coded(encoded: pa.DictionaryArray) -> CodedTexts:
    texts, codes_B = _texts_of_cells(encoded.dictionary), np.asarray(encoded.indices)
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    if len(places) == len(texts):
        return CodedTexts(texts, codes_B)
    # Cells of one text in several spellings, such as 1.0 and 1.
    return CodedTexts(list(places), np.array([places[text] for text in texts])[codes_B])


def _with_codes(column: pa.Array) -> pa.Array:
    """The column, or its texts if Arrow finds no equal cells of its type."""
    has_codes = _has_codes(column.type)
    return column if has_codes else pa.array(_texts_of_cells(column), pa.string())


def _has_codes(kind: pa.DataType) -> bool:
    """Whether Arrow finds equal cells of a type; it does not for lists, UUIDs and some decimals."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_number or pa.types.is_string(kind) or pa.types.is_null(kind))


def _texts_of_cells(column: pa.Array) -> list[str | None]:
    absent = missing_mask(column)
    return [
        None if gone else text_of(value)
        for value, gone in zip(column.to_pylist(), absent, strict=True)
    ]


def to_texts(column: pa.Array) -> list[str | None]:
    """Text of each label or category; None for a missing one."""
    return coded_texts(column).to_list()


def to_strings(column: pa.Array) -> list[str | None]:
    """Texts of a column exactly as they are written; None for a missing one."""
    return list(column.cast(pa.string()).to_pylist())


def image_array(
    images: Sequence[npt.NDArray[np.uint8] | None], files: Sequence[bytes | None] | None = None
) -> pa.Array:
    """Makes one Arrow column of decoded images.

    Args:
        images: Pixels [H, W, C] of each image; None for a missing one.
        files: The file of each image; None stores no files.
    """
    rows = [
        None if image is None else (image.tobytes(), *image.shape, file)
        for image, file in zip(images, files or [None] * len(images), strict=True)
    ]
    return pa.array(rows, IMAGE)


def image_block(images_BHW: npt.NDArray[np.uint8]) -> pa.Array:
    """Grey images of one size [B, H, W] as an Arrow column, without a copy per image."""
    # The array's own memory becomes the buffer of all values, cut by offsets.
    num_rows, height, width = images_BHW.shape
    offsets = np.arange(num_rows + 1, dtype=np.int64) * (height * width)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(images_BHW))]
    pixels = pa.Array.from_buffers(pa.large_binary(), num_rows, buffers)
    sizes = [pa.array(np.full(num_rows, size, dtype=np.int32)) for size in (height, width, 1)]
    files = pa.nulls(num_rows, pa.large_binary())
    return pa.StructArray.from_arrays([pixels, *sizes, files], fields=list(IMAGE))


def file_sizes(column: pa.Array) -> list[int]:
    """Bytes of each file of a column of images, without the images that have none."""
    # A block of JSON Lines whose rows all lack the image has a column of text for it.
    if not len(column):
        return []
    return list(pc.binary_length(column.field("file").drop_null()).to_pylist())


def to_images(column: pa.Array) -> list[npt.NDArray[np.uint8]]:
    """Images of a column without nulls, each uint8 [H, W, C]; the inverse of `image_array`.

    They are views of the column's memory.
    """
    # A block of JSON Lines whose rows all lack the image has a column of text for it.
    if not len(column):
        return []
    pixels, *sizes = (column.field(index) for index in range(4))
    shapes = zip(*(size.to_numpy() for size in sizes), strict=True)
    return [
        np.frombuffer(value.as_buffer(), dtype=np.uint8).reshape(shape)
        for value, shape in zip(pixels, shapes, strict=True)
    ]
