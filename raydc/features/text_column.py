"""The fitted column of texts: each becomes a list of token codes. Pure.

Used in tasks of Ray Data, the driver and replicas. The codes come from byte pairs that were learnt
from the training rows, or from a tokenizer file of the user, which needs the library `tokenizers`.

Shape suffixes: B rows.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, shown
from raydc.features.byte_pairs import NUM_BYTES, BytePairs, learn_merges
from raydc.features.record import Ragged
from raydc.features.signature import Field
from raydc.features.table_layout import smallest_type

Normalisation = Literal["none", "NFC", "NFKC"]
Values = Sequence[Any] | npt.NDArray[Any]
# Characters of a text for one that its normalisation keeps, at most.
_MOST_SHRINKING = 4
INSTALL = "pip install 'raydc[texts]'"


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


class GivenTokenizer:
    """A tokenizer of the user.

    Args:
        content: JSON text of its file.
        max_tokens: Maximum number of tokens in a text, special ones included. None for whole texts
            without special tokens: what is written like one is text.
        takes_special: Whether what is written like a special token is one, in whole texts.

    Attributes:
        tokenizer: The tokenizer itself, of the library `tokenizers`.
        codes: Code of each token by its text.
        num_codes: One more than the greatest code.
        special: Special tokens.

    Raises:
        DataError: `tokenizers` is not installed, or cannot use the file.
    """

    def __init__(self, content: str, max_tokens: int | None, takes_special: bool = False) -> None:
        try:
            from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise DataError("a tokenizer file needs the package tokenizers", INSTALL) from error
        try:
            json.loads(content)
            self.tokenizer = Tokenizer.from_str(content)
            # Padding of the file would be taken for text. Its special tokens stay when a text is
            # cut, as they do where such a tokenizer comes from.
            self.tokenizer.no_padding()
            if max_tokens is None:
                self.tokenizer.no_truncation()
                self.tokenizer.encode_special_tokens = not takes_special
                # It adds nothing to whole texts, and may leave out spaces of their offsets.
                self.tokenizer.post_processor = None
            else:
                self.tokenizer.enable_truncation(max_tokens)
        # The library raises its own types, none of them public.
        except Exception as error:
            raise DataError(f"not a tokenizer file: {error}") from error
        self._is_whole = max_tokens is None
        self.codes = dict(self.tokenizer.get_vocab(with_added_tokens=True))
        self.num_codes = max(self.codes.values(), default=0) + 1
        self._longest = max(map(len, self.codes), default=1)
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.special = tuple(token.content for token in added if token.special)
        normalise = self.tokenizer.normalizer and self.tokenizer.normalizer.normalize_str
        blurred = [one.content for one in added if one.special and one.normalized and normalise]
        self._blurred = {one: normalise(one) for one in blurred}

    def find_special(self, text: str) -> str | None:
        """A special token that a text holds, or would hold when it is normalised; or None."""
        found = next((token for token in self.special if token in text), None)
        if found is None and self._blurred:
            normal = self.tokenizer.normalizer.normalize_str(text)
            found = next((token for token, form in self._blurred.items() if form in normal), None)
        return found

    def refuse_long(self, num_characters: int, max_codes: int, kept: float = 1.0) -> None:
        """Raises ValueError for a text of so many characters that it has too many tokens.

        Args:
            num_characters: Characters of the text.
            max_codes: One more token than it may have.
            kept: Fraction of the text that stays at least.
        """
        # A token stands for so many characters at most, after what normalisation takes away.
        if kept * num_characters > _MOST_SHRINKING * max_codes * self._longest:
            reason = f"it has {num_characters:,} characters, too many for {max_codes - 1:,} tokens"
            raise ValueError(reason)

    def encode(self, text: bytes, max_codes: int) -> list[int]:
        """Encodes a text.

        Raises ValueError if the tokenizer has no token for a part of it, or if it is far too long:
        the work of a tokenizer grows with the text, whatever is cut off then.
        """
        decoded = text.decode()
        if self._is_whole:
            self.refuse_long(len(decoded), max_codes)
        try:
            found = self.tokenizer.encode(decoded, add_special_tokens=not self._is_whole)
            return list(found.ids[:max_codes])
        except Exception as error:
            raise ValueError(f"the tokenizer fails on this text: {error}") from error

    def check_rows(self, max_tokens: int, is_pair: bool) -> None:
        """Refuses what would leave nothing of a text, or could not be stored.

        Args:
            max_tokens: Maximum number of tokens of a row.
            is_pair: Whether a row is a pair of texts.

        Raises:
            DataError: There is no room for a token of each text beside the special ones; or tokens
                of a pair have more than two types.
        """
        num_texts = 2 if is_pair else 1
        num_special = int(self.tokenizer.num_special_tokens_to_add(is_pair=is_pair))
        if max_tokens < num_special + num_texts:
            raise DataError(
                f"a {'pair' if is_pair else 'text'} has {num_special} special tokens, so that "
                f"{max_tokens} token(s) leave no room for one of each text",
                f"Set data.features.text.max_tokens to {num_special + num_texts} or more.",
            )
        if is_pair:
            try:
                self.encode_pair(b"a", b"b", max_tokens)
            except ValueError as error:
                raise DataError(str(error)) from error

    def encode_pair(self, first: bytes, second: bytes, max_codes: int) -> list[tuple[int, int]]:
        """Code and type of each token of two texts in one list.

        Args:
            first: The first text, in UTF-8.
            second: The second one.
            max_codes: Maximum number of tokens; the longer text is cut first.

        Raises:
            ValueError: The tokenizer has no token for a part of a text, or more than two types.
        """
        try:
            found = self.tokenizer.encode(first.decode(), second.decode())
        except Exception as error:
            raise ValueError(f"the tokenizer fails on these texts: {error}") from error
        # As of XLNet, whose last token has a type of its own.
        if max(found.type_ids, default=0) > 1:
            raise ValueError(
                f"the tokenizer gives tokens of a pair the types 0 to {max(found.type_ids)}, and "
                "only 0 and 1 can be read"
            )
        return list(zip(found.ids, found.type_ids, strict=True))[:max_codes]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Codes of a whole text, and where each token begins and ends in it.

        Raises ValueError if the tokenizer has no token for a part of it.
        """
        try:
            found = self.tokenizer.encode(text, add_special_tokens=False)
            return list(found.ids), list(found.offsets)
        except Exception as error:
            raise ValueError(f"the tokenizer fails on this text: {error}") from error
