"""Texts from token codes that come one by one. Pure; used in replicas and the driver.

A token may hold a part of a character. Its text is kept back until the character is whole, and what
can never become one is the replacement character U+FFFD.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from raydc.features.byte_pairs import NUM_BYTES, Pair

_NO_CHARACTER = "\ufffd"
# Codes of a prompt that the text of its answer may depend on.
_NUM_BEFORE = 8


class CodeTexts(Protocol):
    """The texts of codes that follow each other."""

    def add(self, code: int) -> str:
        """Adds a code.

        Args:
            code: The next one.

        Returns:
            What it adds to the text; a character that is not whole yet comes with a later code, or
            never.
        """


class ByteTexts:
    """Texts of codes that stand for bytes. See `CodeTexts`.

    Args:
        texts: Bytes of each code.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, code: int) -> str:
        """Adds a code. See `CodeTexts.add`."""
        return self._decoder.decode(self._texts[code])


class TokenizerTexts:
    """Texts of the codes of a tokenizer of Hugging Face. See `CodeTexts`.

    Args:
        tokenizer: The tokenizer, of the library `tokenizers`.
        before: Codes that stand before the first one: whether that begins with a space may depend
            on them.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int]) -> None:
        # Where there is a tokenizer, there is its library.
        from tokenizers.decoders import (  # type: ignore[import-not-found, unused-ignore]
            DecodeStream,
        )

        self._tokenizer = tokenizer
        self._new_stream = partial(DecodeStream, skip_special_tokens=True)
        self._stream = self._new_stream(ids=self._cut(before))

    def _cut(self, before: Sequence[int]) -> list[int]:
        """The last codes of those before; none if they end in the middle of a character."""
        # A few are enough: they only say whether the text has begun. Bytes that begin in the middle
        # of a character may all be none to a decoder, and one has four at most.
        for count in range(_NUM_BEFORE, _NUM_BEFORE + 4):
            codes = list(before[-count:])
            known = self._tokenizer.decode(codes, skip_special_tokens=True)
            if not known.endswith(_NO_CHARACTER):
                return codes
        # They would be repeated with the first code behind.
        return []

    def add(self, code: int) -> str:
        """Adds a code. See `CodeTexts.add`."""
        try:
            return self._stream.step(self._tokenizer, code) or ""
        # The library raises plain errors. Bytes that turned out to be no character change texts
        # that it has given out already.
        except Exception:  # noqa: BLE001 - it has no type of its own for it.
            self._stream = self._new_stream(ids=[])
            return self._stream.step(self._tokenizer, code) or ""


def bytes_of_codes(merges: Sequence[Pair], num_codes: int) -> list[bytes]:
    """Bytes that each code stands for; codes behind those of the merges stand for none.

    Args:
        merges: Pairs of codes in the order in which they were learnt.
        num_codes: Number of codes.
    """
    texts = [bytes([code]) for code in range(NUM_BYTES)]
    for first, second in merges:
        texts.append(texts[first] + texts[second])
    return [*texts, *[b""] * (num_codes - len(texts))]
