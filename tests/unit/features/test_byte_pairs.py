"""Byte pairs: what is learnt depends on counts alone, and every text comes back from its codes."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from raydc.features import byte_pairs
from raydc.features.byte_pairs import NUM_BYTES, BytePairs, learn_merges, words_of

_TEXTS = (
    "low lower lowest, newer widest; the the THE  then",
    "Grüße aus Köln — 日本語のテキスト 12345 \n\t end",
    "😀😀 half, 3.5% of it's   spaces ",
)


def _counts() -> Counter[bytes]:
    return Counter(itertools.chain.from_iterable(words_of(text.encode()) for text in _TEXTS * 3))


def _slow_merges(counts: Counter[bytes], num_merges: int) -> list[tuple[int, int]]:
    """Counts all pairs again for each merge."""
    words = {word: list(word) for word in counts}
    texts = [bytes([code]) for code in range(NUM_BYTES)]
    merges: list[tuple[int, int]] = []
    while len(merges) < num_merges:
        totals: Counter[tuple[int, int]] = Counter()
        for word, codes in words.items():
            for pair in itertools.pairwise(codes):
                totals[pair] += counts[word]
        if not totals:
            break
        best = min(totals, key=lambda p: (-totals[p], texts[p[0]], texts[p[1]], p))
        if totals[best] < 2:
            break
        for word, codes in words.items():
            joined: list[int] = []
            for code in codes:
                is_second = bool(joined) and (joined[-1], code) == best
                # A code that was just joined cannot be the first of the same pair.
                if is_second:
                    joined[-1] = NUM_BYTES + len(merges)
                else:
                    joined.append(code)
            words[word] = joined
        merges.append(best)
        texts.append(texts[best[0]] + texts[best[1]])
    return merges


@pytest.mark.parametrize("text", [*_TEXTS, "", " ", "x" * 1000, "あ" * 100, "\x00\x7f"])
def test_words_lose_no_byte(text: str) -> None:
    assert b"".join(words_of(text.encode())) == text.encode()
    assert all(len(word) <= 49 for word in words_of(text.encode()))


def test_words_that_are_too_many_are_left_out_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(byte_pairs, "MAX_COUNTED_WORDS", 2)
    # All are equally frequent, so their order decides which two count.
    words = [b"aaab", b"bbbc", b"cccd", b"ddda"]
    found = [learn_merges(dict.fromkeys(order, 5), 4) for order in itertools.permutations(words)]
    assert all(merges == found[0] for merges in found)
    assert found[0][0] == (ord("a"), ord("a"))


def test_merges_are_those_of_a_plain_search() -> None:
    counts = _counts()
    assert learn_merges(counts, 60) == _slow_merges(counts, 60)


def test_merges_do_not_depend_on_the_order_of_counts() -> None:
    items = list(_counts().items())
    expected = learn_merges(dict(items), 50)
    for seed in range(5):
        random.Random(seed).shuffle(items)
        assert learn_merges(dict(items), 50) == expected


def test_ties_go_to_the_bytes_that_come_first() -> None:
    assert learn_merges({b"zy": 2, b"ab": 2}, 2) == [(97, 98), (122, 121)]


def test_a_pair_that_occurs_once_is_no_token() -> None:
    assert learn_merges({b"abc": 1}, 10) == []


@pytest.mark.parametrize("text", [*_TEXTS, "never seen: ñandú", "aaaa", ""])
def test_codes_give_the_text_back(text: str) -> None:
    merges = learn_merges(_counts(), 80)
    texts = [bytes([code]) for code in range(NUM_BYTES)]
    for first, second in merges:
        texts.append(texts[first] + texts[second])
    codes = BytePairs(merges).encode(text.encode(), 10_000)
    assert b"".join(texts[code] for code in codes) == text.encode()


def test_a_long_text_is_read_only_as_far_as_needed() -> None:
    encoder = BytePairs(learn_merges(_counts(), 20))
    text = " the low" * 100
    whole = encoder.encode(text.encode(), 10_000)
    for most in (1, 2, 3, 7):
        assert encoder.encode(text.encode(), most) == whole[:most]
