"""Stop strings: nothing of one is passed on, however the text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydc.bundle.stop_strings import StopFilter


def pass_on(strings: list[str], parts: list[str]) -> tuple[str, bool]:
    """What comes out, and whether a string has come."""
    stop = StopFilter(strings)
    text = "".join(stop.add(part) for part in parts)
    return text + stop.finish(), stop.is_stopped


def test_the_text_before_a_stop_string_is_passed_on() -> None:
    assert pass_on(["\n\n"], ["one", "\ntwo\n", "\nthree"]) == ("one\ntwo", True)
    assert pass_on([], ["one", "two"]) == ("onetwo", False)


def test_the_beginning_of_a_stop_string_is_kept_back_until_it_is_known() -> None:
    stop = StopFilter(["END"])
    assert [stop.add(part) for part in ("aE", "N", "X", "EN")] == ["a", "", "ENX", ""]
    assert (stop.finish(), stop.is_stopped) == ("EN", False)


def test_the_string_that_ends_first_wins_however_the_text_is_cut() -> None:
    for parts in (["xabcdy"], ["xa", "b", "c", "dy"], list("xabcdy")):
        assert pass_on(["abcd", "bc"], parts) == ("xa", True)


def test_nothing_comes_behind_a_stop() -> None:
    stop = StopFilter(["."])
    assert (stop.add("a.b"), stop.add("c"), stop.finish()) == ("a", "", "")


TEXTS = st.text("ab.", max_size=12)


@given(st.lists(st.text("ab.", min_size=1, max_size=3), max_size=3), TEXTS, st.randoms())
def test_the_cut_of_a_text_changes_nothing(strings: list[str], text: str, cuts: object) -> None:
    parts, rest = [], text
    while rest:
        count = cuts.randint(1, 3)  # type: ignore[attr-defined]
        parts, rest = [*parts, rest[:count]], rest[count:]
    found, is_stopped = pass_on(strings, parts)
    assert (found, is_stopped) == pass_on(strings, list(text))
    assert text.startswith(found)
    assert not any(one in found for one in strings)
    assert is_stopped == any(one in text for one in strings)
