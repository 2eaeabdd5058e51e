"""Errors cross processes whole, and no exit code is used twice for different things."""

from __future__ import annotations

import pickle

import pytest

from raydc import errors
from raydc.errors import Problem, RaydcError, SpecError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RaydcError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_pickling(kind: type[RaydcError]) -> None:
    error = (
        SpecError([Problem("a.yaml:1:2", "x", "bad")])
        if kind is SpecError
        else kind("what", "do this")
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - exceptions cross Ray's processes pickled
    assert type(copy) is kind
    assert (str(copy), copy.hint, copy.args) == (str(error), error.hint, error.args)


def test_every_class_is_drawn_in_the_tree() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in CLASSES)
    for kind in CLASSES:
        line = next(line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line)
        assert f" {kind.exit_code} " in line


def test_the_hint_is_part_of_the_message() -> None:
    assert str(errors.DataError("row 3 is bad", "fix it")) == "row 3 is bad\n  fix it"


@pytest.mark.parametrize(
    ("error", "line"),
    [(TimeoutError(), ""), (OSError("\n  \nno disk\nat all"), "no disk"), (ValueError("a"), "a")],
)
def test_first_line_skips_empty_lines_and_may_be_empty(error: Exception, line: str) -> None:
    assert errors.first_line(error) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [(TimeoutError(), "TimeoutError"), (OSError("no disk\nat all\n  \n"), "at all")],
)
def test_last_line_of_an_empty_message_is_the_class(error: Exception, line: str) -> None:
    assert errors.last_line(error) == line


@pytest.mark.parametrize(
    ("number", "hint"),
    [(28, "space"), (13, "May this user"), (36, "shorter name"), (20, "is a file"), (5, "fault")],
)
def test_hint_of_an_os_error_is_derived_from_its_number(number: int, hint: str) -> None:
    assert hint in (errors.os_error_hint(OSError(number, "x")) or "")
    assert errors.os_error_hint(OSError("of an object store")) is None


def test_did_you_mean_names_only_what_is_similar() -> None:
    assert errors.did_you_mean("epoch", ["epochs", "seed"]) == "did you mean epochs?"
    assert errors.did_you_mean("epoch", ["seed"]) == ""
    assert errors.did_you_mean("ab", ["abc", "abd"], num=2) == "did you mean abd or abc?"
    assert errors.did_you_mean("epoch", ["epochs"], starts_sentence=True).startswith("Did you ")
    assert errors.did_you_mean("a" * 10**6, ["a"]) == ""
