"""Words of a column of texts, counted in tasks of Ray Data, from which its tokens are learnt.

Counts are whole numbers, so that merging them rounds nothing and does not depend on blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from raydc.data import values
from raydc.features.byte_pairs import words_of
from raydc.features.text_column import to_bytes
from raydc.spec.feature_options import TextOptions

# JSON, through which the counts of a block go, has texts but no bytes: each byte is one character.
_BYTES_AS_TEXT = "latin-1"


@dataclass(frozen=True)
class WordCounts:
    """Statistics of a column of texts.

    Attributes:
        words: Occurrences of each word, its bytes written as Latin-1 text. Empty if the tokens of
            the column are given and not learnt.
        num_texts: Rows with a text.
        num_absent: Rows without one.
    """

    words: dict[str, int]
    num_texts: int
    num_absent: int

    def plus(self, other: WordCounts) -> WordCounts:
        """Adds the statistics of other rows."""
        return WordCounts(
            dict(Counter(self.words) + Counter(other.words)),
            self.num_texts + other.num_texts,
            self.num_absent + other.num_absent,
        )

    @property
    def by_bytes(self) -> dict[bytes, int]:
        """Occurrences of each word."""
        return {word.encode(_BYTES_AS_TEXT): count for word, count in self.words.items()}


def count_words(column: pa.Array, options: TextOptions) -> WordCounts:
    """Counts the words of some rows.

    Args:
        column: Raw cells, of training rows only.
        options: Section `data.features.text`.
    """
    texts = values.to_strings(column)
    known = [text for text in texts if text is not None]
    counts: Counter[bytes] = Counter()
    if options.tokenizer is None:
        for text in known:
            counts.update(words_of(to_bytes(text, options.normalisation)))
    words = {word.decode(_BYTES_AS_TEXT): count for word, count in counts.items()}
    return WordCounts(words, len(known), len(texts) - len(known))
