"""Rows of named fields: what a network takes when a row is more than one array. Pure.

A field holds an array of fixed shape for each row, or a list of any length (`Ragged`): tokens, or
the steps of a series. A row that is one array, such as an image or scaled columns, stays a plain
array. `Inputs` is either; the functions of this module treat both alike.

Shape suffixes: B rows, N items of all lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from raydc.features.table_layout import TableLayout

Array = npt.NDArray[Any]
Selection: TypeAlias = slice | npt.NDArray[np.integer[Any]]

# A network gets the lengths of a field's lists under the name of the field with this suffix.
LENGTH = ".length"
# Lists are padded up to one of these lengths or a doubling of the last two. Half steps between the
# powers of two keep padding below a third, and few lengths mean few kernels to choose from.
_SHORT_LENGTHS = (4, 8, 12, 16, 24, 32)


def bucket_length(length: int) -> int:
    """Length to which a list is padded, a function of its own length alone.

    Args:
        length: Items of the list; a list without items is padded too.
    """
    for bucket in _SHORT_LENGTHS:
        if length <= bucket:
            return bucket
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power


def buckets_up_to(length: int) -> list[int]:
    """All lengths to which lists of at most `length` items are padded, ascending."""
    found = [bucket_length(0)]
    while found[-1] < length:
        found.append(bucket_length(found[-1] + 1))
    return found


@dataclass(frozen=True)
class Ragged:
    """Lists of items, one for each row, in one array.

    Attributes:
        values_N: Items of all lists, [N, *item shape].
        offsets: int64 [B + 1]; the list of row i is `values_N[offsets[i]:offsets[i + 1]]`.
    """

    values_N: Array
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of_lists(cls, lists: Sequence[Array], like: Array) -> Ragged:
        """Joins lists.

        Args:
            lists: Items of each row, [length, *item shape]; the lengths may differ.
            like: An array with the type and item shape of the result, which rows without items
                do not tell.
        """
        lengths = [len(items) for items in lists]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        values_N = np.concatenate([like[:0], *lists]).astype(like.dtype, copy=False)
        return cls(values_N, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Items of each list, int64 [B]."""
        return np.diff(self.offsets)

    def __getitem__(self, rows: Selection) -> Ragged:
        """Lists of some rows, in their order; a slice copies no items."""
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            if step == 1:
                offsets = self.offsets[first : max(first, stop) + 1]
                return Ragged(self.values_N[offsets[0] : offsets[-1]], offsets - offsets[0])
            rows = np.arange(first, stop, step)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Position of each item in the old array: the start of its list plus its place in it.
        moved = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Ragged(self.values_N[moved + np.arange(offsets[-1])], offsets)

    def padded(self, length: int) -> Array:
        """Lists filled up with zeros to one length, [B, length, *item shape]."""
        padded = np.zeros((len(self), length, *self.values_N.shape[1:]), self.values_N.dtype)
        padded[np.arange(length) < self.lengths[:, None]] = self.values_N
        return padded

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return int(self.values_N.nbytes)


@dataclass(frozen=True)
class Record:
    """Rows of named fields.

    Attributes:
        fields: Values of B rows by the name of the field: an array [B, *shape], or lists.
        layout: How stored numbers and codes become the field `columns`; None if `fields` holds it
            already or has no columns.
    """

    fields: Mapping[str, Array | Ragged]
    layout: TableLayout | None = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, rows: Selection) -> Record:
        """The same fields of some rows, in their order."""
        return Record({name: values[rows] for name, values in self.fields.items()}, self.layout)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(values.nbytes for values in self.fields.values())

    def expanded(self) -> Inputs:
        """What a network takes: stored columns become numbers; nothing but columns is one array."""
        if self.layout is None:
            return self
        fields = self.layout.expand(self.fields)
        return fields["columns"] if list(fields) == ["columns"] else Record(fields)


Inputs: TypeAlias = Array | Record


def expanded(x: Inputs) -> Inputs:
    """Rows as a network takes them, whether they come from storage or from a request."""
    return x.expanded() if isinstance(x, Record) else x


def join_rows(parts: Sequence[Inputs]) -> Inputs:
    """Concatenates rows.

    Args:
        parts: At least one part; all have the same fields.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if not isinstance(first, Record):
        return np.concatenate(parts)  # type: ignore[arg-type]
    return Record(
        {
            name: _join([part.fields[name] for part in parts])  # type: ignore[union-attr]
            for name in first.fields
        },
        first.layout,
    )


def _join(parts: Sequence[Any]) -> Array | Ragged:
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(np.concatenate([part.values_N for part in parts]), offsets)


def repeat_rows(x: Inputs, num_rows: int) -> Inputs:
    """Repeats rows in turn until there are `num_rows`.

    Args:
        x: At least one row.
        num_rows: Length of the result; with fewer than `x` has, only its first ones are in it.
    """
    return x[np.arange(num_rows) % len(x)]


def pad_rows(x: Inputs, num_rows: int) -> Inputs:
    """Fills a batch up with copies of its last row.

    Args:
        x: At least one row, and at most `num_rows`.
        num_rows: Length of the result, such as a size for which the network is compiled.
    """
    if isinstance(x, Record):
        return x[np.minimum(np.arange(num_rows), len(x) - 1)]
    # Most batches are plain arrays, for which two copies are cheaper than an index.
    padded = np.empty((num_rows, *x.shape[1:]), dtype=x.dtype)
    padded[: len(x)] = x
    padded[len(x) :] = x[-1]
    return padded


def bucket_keys(x: Inputs) -> npt.NDArray[np.int64] | None:
    """Padded length of each list of each row, [B, lists]; None for rows without lists.

    Rows of one forward pass must have the same key, or a row's outputs would depend on the lengths
    of the others.
    """
    if not isinstance(x, Record):
        return None
    lists = [values for values in x.fields.values() if isinstance(values, Ragged)]
    if not lists:
        return None
    return np.array(
        [[bucket_length(length) for length in values.lengths.tolist()] for values in lists],
        dtype=np.int64,
    ).T


def largest_value(x: Inputs) -> float:
    """Largest absolute value of some rows."""
    values = x.fields.values() if isinstance(x, Record) else [x]
    arrays = [part.values_N if isinstance(part, Ragged) else part for part in values]
    return max(float(np.abs(array).max(initial=0)) for array in arrays)


def contiguous(x: Inputs) -> Inputs:
    """The same rows with memory of their own, which may be written."""
    if isinstance(x, Record):
        return x[np.arange(len(x))]
    return x if x.flags.writeable else x.copy()
