"""Recognises what texts of a column look like: dates, numbers with signs, identifiers. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence

from raydc.features.date_column import seconds_of

# Texts that mean a missing value in many files.
MISSING_WORDS = ("?", "-", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A")
_MOST_FRACTION = 0.9
# A name or an address has up to four.
_WORDS_OF_SENTENCES = 5
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    rf"|\d{{1,2}}[ -]{_MONTH}[ -]\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}})(?:[T ,].*)?"
    r"|\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?",
    re.IGNORECASE,
)
_CURRENCY = re.compile(r"[$€£¥%]|\b(?:USD|EUR|GBP|CHF|JPY)\b")
_SEPARATED = re.compile(r"[+-]?\d{1,3}(?:[.,'\s]\d{3})*(?:[.,]\d+)?|[+-]?\d+(?:[.,]\d+)?")
# `Unnamed: 0` and a column without a name are what pandas makes of its index in CSV files.
_ID_NAME = re.compile(r"(?:.*[\W_])?(?i:id|idx|index|uuid|guid)|.*[a-z](?:Id|ID)|Unnamed: \d+|")


def are_mostly(samples: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Whether at least nine of ten texts fit.

    Args:
        samples: Texts of a column, or some of them.
        fits: Returns whether a text has the shape in question.
    """
    return sum(map(fits, samples)) >= _MOST_FRACTION * len(samples)


def is_date(text: str) -> bool:
    """Whether text is a date, a time or both."""
    return bool(_DATE.fullmatch(text.strip()))


def is_iso_date(text: str) -> bool:
    """Whether text is a date as raydc reads it in a column that is declared one."""
    return is_date(text) and not math.isnan(seconds_of(text))


def is_compact_day(number: float) -> bool:
    """Whether a number is a day of the years 1900 to 2099 such as 20240229."""
    if not 19_000_101 <= number <= 20_991_231 or number != int(number):
        return False
    return not math.isnan(seconds_of(str(int(number))))


def are_free_texts(samples: Collection[str]) -> bool:
    """Whether texts are sentences rather than names: five words or more on average."""
    return sum(len(text.split()) for text in samples) >= _WORDS_OF_SENTENCES * len(samples)


def with_edges(name: str) -> str:
    """A name for a list in a message: in quotes if blanks at its edges would not be seen."""
    return name if name and name == name.strip() else repr(name)


def is_identifier_name(name: str) -> bool:
    """Whether a column is named like an identifier, or like the index of a table."""
    return bool(_ID_NAME.fullmatch(name))


def is_plain_number(text: str) -> bool:
    """Whether text is a number as raydc reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_number_with_signs(text: str) -> bool:
    """Whether text is a number with a decimal comma, separators, a currency or a percent sign."""
    return is_number(text) and not is_plain_number(text)


def is_number(text: str) -> bool:
    """Whether text is a number, with or without separators and signs."""
    return bool(_SEPARATED.fullmatch(_CURRENCY.sub("", text).strip())) or is_plain_number(text)
