"""Byte-pair encoding: texts to codes of byte sequences that are frequent in training. Pure.

A text is UTF-8 bytes, cut into words before anything else; pairs of codes are merged within words.
Codes below 256 are bytes, so there is no unknown text. The cut knows ASCII only and takes all other
characters for letters: it does not depend on the version of Unicode that a process has.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

NUM_BYTES = 256
# A pair that occurs once says nothing about other texts.
_MIN_COUNT = 2
# Languages without spaces have words as long as sentences. A multiple of 2, 3 and 4, so that the
# cut is between characters if all have as many bytes.
_MAX_WORD_BYTES = 48
_WORD = re.compile(
    rb" ?[A-Za-z\x80-\xff]{1,48}| ?[0-9]{1,48}| ?[^\sA-Za-z0-9\x80-\xff]{1,48}"
    rb"|\s{1,48}(?!\S)|\s{1,48}"
)
# Words whose codes are kept. A client may send any, so their number has a limit.
_MAX_KEPT_WORDS = 100_000
# More would keep the driver busy for minutes and change only the rarest codes.
MAX_COUNTED_WORDS = 200_000

Pair = tuple[int, int]


def words_of(text: bytes) -> Iterator[bytes]:
    """Cuts a text into words; a word keeps the space in front of it, and nothing is lost."""
    return (match.group() for match in _WORD.finditer(text))


def learn_merges(counts: Mapping[bytes, int], num_merges: int) -> list[Pair]:
    """Finds the pairs of codes to merge, most frequent first.

    The result depends on the counts only, and not on their order: of pairs that are equally
    frequent the one whose bytes come first is merged.

    Args:
        counts: Occurrences of each word in the training rows.
        num_merges: Maximum number of pairs to find; fewer if no other pair occurs twice.

    Returns:
        Pairs of codes; the merge of pair i has the code 256 + i.
    """
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_COUNTED_WORDS]
    words = [list(word) for word, _ in frequent]
    weights = [count for _, count in frequent]
    texts = [bytes([code]) for code in range(NUM_BYTES)]
    totals: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, codes in enumerate(words):
        for pair in itertools.pairwise(codes):
            totals[pair] += weights[index]
            places[pair].add(index)

    def rank(pair: Pair) -> tuple[int, bytes, bytes, Pair]:
        return -totals[pair], texts[pair[0]], texts[pair[1]], pair

    queue = [rank(pair) for pair in totals]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < num_merges:
        found = heapq.heappop(queue)
        pair = found[-1]
        # Counts that have changed since are in the queue once more, as they are now.
        if found != rank(pair) or pair not in places:
            continue
        if totals[pair] < _MIN_COUNT:
            break
        code = NUM_BYTES + len(merges)
        merges.append(pair)
        texts.append(texts[pair[0]] + texts[pair[1]])
        changed: set[Pair] = set()
        for index in places.pop(pair):
            old, new = words[index], _merge(words[index], pair, code)
            words[index] = new
            for one in itertools.pairwise(old):
                totals[one] -= weights[index]
                changed.add(one)
            for one in itertools.pairwise(new):
                totals[one] += weights[index]
                places[one].add(index)
                changed.add(one)
        for one in changed - {pair}:
            heapq.heappush(queue, rank(one))
    return merges


def _merge(codes: Sequence[int], pair: Pair, code: int) -> list[int]:
    merged: list[int] = []
    position = 0
    while position < len(codes):
        if tuple(codes[position : position + 2]) == pair:
            merged.append(code)
            position += 2
        else:
            merged.append(codes[position])
            position += 1
    return merged


class BytePairs:
    """Encodes texts with learnt merges.

    Args:
        merges: Pairs of codes in the order in which they were learnt.
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[bytes, tuple[int, ...]] = {}

    def encode(self, text: bytes, max_codes: int) -> list[int]:
        """Encodes the beginning of a text.

        Args:
            text: UTF-8 bytes; what comes after the last code is not looked at.
            max_codes: Maximum number of codes; the rest of the text is not encoded.
        """
        codes: list[int] = []
        for word in words_of(text):
            codes += self._encode_word(word)
            if len(codes) >= max_codes:
                return codes[:max_codes]
        return codes

    def _encode_word(self, word: bytes) -> tuple[int, ...]:
        known = self._known.get(word)
        if known is not None:
            return known
        codes = list(word)
        while len(codes) > 1:
            # The pair that was learnt first, as in training; a word is short, so a search is cheap.
            pairs = itertools.pairwise(codes)
            pair = min(pairs, key=lambda one: self._rank.get(one, len(self._rank)))
            if pair not in self._rank:
                break
            codes = _merge(codes, pair, NUM_BYTES + self._rank[pair])
        if len(self._known) < _MAX_KEPT_WORDS:
            self._known[word] = tuple(codes)
        return tuple(codes)
