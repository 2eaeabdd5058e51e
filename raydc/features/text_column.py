"""The fitted column of texts: each becomes a list of token codes. Pure.

Used in tasks of Ray Data, the driver and replicas. The codes come from byte pairs that were learnt
from the training rows, or from a tokenizer file of the user, which needs the library `tokenizers`.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.byte_pairs import NUM_BYTES, BytePairs, learn_merges
from raydc.features.given_tokenizer import GivenTokenizer
from raydc.features.record import Ragged
from raydc.features.signature import Field
from raydc.features.table_layout import smallest_type

Normalisation = Literal["none", "NFC", "NFKC"]
Values = Sequence[Any] | npt.NDArray[Any]


@dataclass(frozen=True)
class Text:
    """A text as a list of token codes.

    Attributes:
        num_codes: Number of codes; all codes are below it.
        max_tokens: Maximum number of tokens in a text; the rest is cut off.
        normalisation: Unicode form to which a text is brought first.
        merges: Learnt pairs of codes, one after the other: merge i joins the codes `merges[2 * i]`
            and `merges[2 * i + 1]` to the code 256 + i.
        tokenizer: Content of the user's `tokenizer.json`; empty if the pairs were learnt.
        second: Column whose text stands behind this one in the same list; None for a text alone.
        first: Column in whose list this text stands, so that it has no field; None for any other.
    """

    num_codes: int
    max_tokens: int
    normalisation: Normalisation = "none"
    merges: tuple[int, ...] = ()
    tokenizer: str = ""
    second: str | None = None
    first: str | None = None
    kind: ClassVar[str] = "text"

    @property
    def field(self) -> Field:
        """The field of a row that it gives."""
        if self.second is not None:
            num_codes = 2 * self.num_codes
            return Field("list", self._dtype, (), num_codes, self.max_tokens, is_pair=True)
        return Field("list", self._dtype, (), self.num_codes, self.max_tokens)

    @property
    def _dtype(self) -> str:
        return smallest_type(self.num_codes * (1 if self.second is None else 2))

    @cached_property
    def _encoder(self) -> BytePairs | GivenTokenizer:
        if self.tokenizer:
            return GivenTokenizer(self.tokenizer, self.max_tokens)
        return BytePairs(list(zip(self.merges[::2], self.merges[1::2], strict=True)))

    def apply(self, values: Values, column: str, missing_values: Collection[str]) -> Ragged:
        """Turns texts into lists of codes; a missing text has none.

        Args:
            values: Raw values of B rows.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Raises:
            DataError: A value is not text; the message names its row and column.
        """
        codes: list[int] = []
        offsets = np.zeros(len(values) + 1, dtype=np.int64)
        for row, value in enumerate(values):
            if not is_missing(value, missing_values):
                codes += self._encode(value, row, column)
            offsets[row + 1] = len(codes)
        return Ragged(np.array(codes, dtype=self._dtype), offsets)

    def apply_pairs(
        self,
        values: Values,
        others: Values,
        names: tuple[str, str],
        missing_values: Collection[str],
    ) -> Ragged:
        """Turns pairs of texts into lists of codes, as the tokenizer joins a pair.

        A missing text counts as one without words; a pair of which both are missing has no tokens.
        The longer one of the two is cut first.

        Args:
            values: Raw values of B rows of the first column.
            others: Those of the second column.
            names: Names of the two columns, for messages.
            missing_values: Strings that mean "missing".

        Returns:
            Codes; those of the second type have `num_codes` added.

        Raises:
            DataError: A value is not text; the message names its row and column.
        """
        assert isinstance(self._encoder, GivenTokenizer), "`fit` makes no pair without a tokenizer"
        codes: list[int] = []
        offsets = np.zeros(len(values) + 1, dtype=np.int64)
        for row, pair in enumerate(zip(values, others, strict=True)):
            given = [not is_missing(value, missing_values) for value in pair]
            if any(given):
                first, second = (
                    self._read(value, row, name) if has_text else b""
                    for value, name, has_text in zip(pair, names, given, strict=True)
                )
                try:
                    found = self._encoder.encode_pair(first, second, self.max_tokens)
                except ValueError as error:
                    place = f"rows[{row}].{names[0]} and {names[1]}"
                    raise DataError(f"{place}: {error}") from error
                codes += [code + (self.num_codes if kind else 0) for code, kind in found]
            offsets[row + 1] = len(codes)
        return Ragged(np.array(codes, dtype=self._dtype), offsets)

    def _encode(self, value: Any, row: int, column: str) -> list[int]:
        text = self._read(value, row, column)
        try:
            return self._encoder.encode(text, self.max_tokens)
        except ValueError as error:
            raise DataError(f"rows[{row}].{column}: {error}") from error

    def _read(self, value: Any, row: int, column: str) -> bytes:
        if not isinstance(value, str):
            raise DataError(
                f"rows[{row}].{column}: {shown(value)} is not text",
                "Give a string, or null where it is missing.",
            )
        try:
            return to_bytes(value, self.normalisation)
        except UnicodeEncodeError as error:
            raise DataError(
                f"rows[{row}].{column}: not valid text: half a surrogate pair at position "
                f"{error.start}"
            ) from error


def is_missing(value: Any, missing_values: Collection[str]) -> bool:
    """Whether a raw value of a text stands for none."""
    # A column of texts that has no text in some rows may hold NaN there.
    is_nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return value is None or is_nan or (isinstance(value, str) and value in missing_values)


def to_bytes(text: str, normalisation: Normalisation) -> bytes:
    """UTF-8 of a text in a Unicode form. Raises UnicodeEncodeError for half a character."""
    if normalisation != "none":
        text = unicodedata.normalize(normalisation, text)
    return text.encode()


def learn(
    counts: Mapping[bytes, int], vocabulary: int, max_tokens: int, normalisation: Normalisation
) -> Text:
    """Fits a column to the words of the training rows.

    Args:
        counts: Occurrences of each word, as `words_of` cuts them.
        vocabulary: Maximum number of codes, the 256 bytes included.
        max_tokens: Maximum number of tokens in a text; the rest is cut off.
        normalisation: Unicode form in which the words were counted.
    """
    merges = learn_merges(counts, vocabulary - NUM_BYTES)
    flat = tuple(itertools.chain.from_iterable(merges))
    return Text(NUM_BYTES + len(merges), max_tokens, normalisation, flat)


def of_tokenizer(content: str, max_tokens: int, normalisation: Normalisation) -> Text:
    """Makes a column from the content of a `tokenizer.json`.

    Args:
        content: The JSON text of the file.
        max_tokens: Maximum number of tokens in a text, special ones included.
        normalisation: Unicode form to which a text is brought before the tokenizer gets it.

    Raises:
        DataError: `tokenizers` is not installed, or cannot use the file.
    """
    num_codes = GivenTokenizer(content, max_tokens).num_codes
    return Text(num_codes, max_tokens, normalisation, tokenizer=content)
