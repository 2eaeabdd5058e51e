"""The fitted column of documents, whose tokens a language model predicts. Pure.

Used in tasks of Ray Data, the driver and replicas. One code ends a document and begins the next
one, so that every token of a document is predicted, the first and the end among them, and a row
needs no marks of where documents begin.

Shape suffixes: B rows, M tokens of a row: one more than it predicts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raydc.errors import DataError, did_you_mean, shown
from raydc.features.byte_pairs import NUM_BYTES, BytePairs, learn_merges
from raydc.features.given_tokenizer import GivenTokenizer
from raydc.features.signature import Field
from raydc.features.table_layout import smallest_type
from raydc.features.text_column import Normalisation, is_missing, to_bytes
from raydc.features.token_text import ByteTexts, CodeTexts, TokenizerTexts, bytes_of_codes

Codes = npt.NDArray[Any]
Values = Sequence[Any] | npt.NDArray[Any]
# No document has as many tokens.
_ALL = 2**62


@dataclass(frozen=True)
class TokenBlock:
    """Documents as token codes, and rows of a fixed number of them.

    Attributes:
        num_codes: Number of codes; all codes are below it.
        length: Tokens that a row predicts.
        end_code: Code that stands before and behind each document.
        normalisation: Unicode form to which a text is brought first.
        merges: Learnt pairs of codes, one after the other, as in `Text`.
        tokenizer: Content of the user's `tokenizer.json`; empty if the pairs were learnt.
    """

    num_codes: int
    length: int
    end_code: int
    normalisation: Normalisation = "none"
    merges: tuple[int, ...] = ()
    tokenizer: str = ""
    kind: ClassVar[str] = "tokens"

    @property
    def field(self) -> Field:
        """The field of a row that it gives."""
        return Field(
            "array", self.dtype, (self.length + 1,), self.num_codes, end_code=self.end_code
        )

    @property
    def dtype(self) -> str:
        """numpy's name of the smallest type that holds all codes."""
        return smallest_type(self.num_codes)

    @property
    def end_codes(self) -> tuple[int, ...]:
        """Codes with which a text ends."""
        return (self.end_code,)

    @cached_property
    def _encoder(self) -> BytePairs | GivenTokenizer:
        if self.tokenizer:
            return GivenTokenizer(self.tokenizer, None)
        return BytePairs(list(zip(self.merges[::2], self.merges[1::2], strict=True)))

    def encode(self, text: Any, place: str, max_codes: int = _ALL) -> list[int]:
        """Codes of a document, without those around it.

        Args:
            text: The document.
            place: Names it, for messages.
            max_codes: Most codes to return; by default all of them.

        Raises:
            DataError: It is not text, or the tokenizer has no token for a part of it.
        """
        if not isinstance(text, str):
            raise DataError(f"{place}: {shown(text)} is not text", "Give a string.")
        try:
            codes = self._encoder.encode(to_bytes(text, self.normalisation), max_codes)
        except UnicodeEncodeError as error:
            reason = f"not valid text: half a surrogate pair at position {error.start}"
            raise DataError(f"{place}: {reason}") from error
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        if self.tokenizer and self.end_code in codes:
            raise DataError(
                f"{place}: the text holds the token that ends documents",
                "Leave data.blocks.end_token out for a token of its own.",
            )
        return codes

    def code_of(self, token: str) -> int | None:
        """Code of a token by its text; None if there is none, or tokens were learnt."""
        if isinstance(self._encoder, GivenTokenizer):
            return self._encoder.codes.get(token)
        return None

    def texts(self, before: Sequence[int]) -> CodeTexts:
        """Texts of codes that follow each other, such as those of an answer.

        Args:
            before: Codes of the text before them.
        """
        if isinstance(self._encoder, GivenTokenizer):
            return TokenizerTexts(self._encoder.tokenizer, before)
        return ByteTexts(self._byte_texts)

    @cached_property
    def _byte_texts(self) -> list[bytes]:
        pairs = list(zip(self.merges[::2], self.merges[1::2], strict=True))
        return bytes_of_codes(pairs, self.num_codes)

    def rows(self, stream: Codes) -> tuple[Codes, npt.NDArray[np.int64]]:
        """Cuts a stream of documents into rows.

        Args:
            stream: Codes of documents with `end_code` before each and behind the last.

        Returns:
            Codes [B, M], where the last one of a row is the first of the next, filled up with
            `end_code`; and int64 [B], the tokens that each row predicts. All are predicted once.
        """
        num_predicted = len(stream) - 1
        num_rows = -(-num_predicted // self.length)
        filled = np.full(num_rows * self.length + 1, self.end_code, dtype=self.dtype)
        filled[: len(stream)] = stream
        rows_BM = np.lib.stride_tricks.sliding_window_view(filled, self.length + 1)[:: self.length]
        counts_B = np.full(num_rows, self.length, dtype=np.int64)
        counts_B[-1:] = num_predicted - (num_rows - 1) * self.length
        return np.ascontiguousarray(rows_BM), counts_B

    def apply(self, values: Values, column: str, missing_values: Collection[str]) -> Codes:
        """Turns documents into rows [B, M], each the beginning of one document.

        Args:
            values: Raw values of B rows; a missing document has no tokens.
            column: Name of the column, for messages.
            missing_values: Strings that mean "missing".

        Raises:
            DataError: A value is not text; the message names its row and column.
        """
        rows_BM = np.full((len(values), self.length + 1), self.end_code, dtype=self.dtype)
        for row, value in enumerate(values):
            if not is_missing(value, missing_values):
                codes = self.encode(value, f"rows[{row}].{column}")[: self.length]
                rows_BM[row, 1 : len(codes) + 1] = codes
        return rows_BM


def learn(
    counts: Mapping[bytes, int], vocabulary: int, length: int, normalisation: Normalisation
) -> TokenBlock:
    """Learns tokens from the words of the training documents.

    Args:
        counts: Occurrences of each word, as `byte_pairs.words_of` cuts them.
        vocabulary: Maximum number of codes, the 256 bytes and the end included.
        length: Tokens that a row predicts.
        normalisation: Unicode form in which the words were counted.
    """
    merges = learn_merges(counts, max(0, vocabulary - NUM_BYTES - 1))
    flat = tuple(code for pair in merges for code in pair)
    end_code = NUM_BYTES + len(merges)
    return TokenBlock(end_code + 1, length, end_code, normalisation, flat)


def of_tokenizer(
    content: str, end_token: str | None, length: int, normalisation: Normalisation
) -> TokenBlock:
    """Makes a column from the content of a `tokenizer.json`.

    Args:
        content: The JSON text of the file.
        end_token: Token that ends documents; None for a new code behind those of the tokenizer.
        length: Tokens that a row predicts.
        normalisation: Unicode form to which a text is brought before the tokenizer gets it.

    Raises:
        DataError: `tokenizers` is not installed, cannot use the file, or there is no such token.
    """
    tokenizer = GivenTokenizer(content, None)
    if end_token is None:
        end_code = tokenizer.num_codes
        return TokenBlock(end_code + 1, length, end_code, normalisation, tokenizer=content)
    if end_token not in tokenizer.codes:
        hint = did_you_mean(end_token, tokenizer.codes, starts_sentence=True)
        raise DataError(f"data.blocks.end_token: there is no token {end_token!r}", hint or None)
    end_code = tokenizer.codes[end_token]
    return TokenBlock(tokenizer.num_codes, length, end_code, normalisation, tokenizer=content)
