"""Notes for the user about columns that are probably not what they seem. Runs in the driver.

Nothing is decided here: a note says what was seen, and which field of the spec changes it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from raydc.data.clean import TRAIN, Cleaner
from raydc.data.column_scan import BlockScan
from raydc.data.column_statistics import RowStatistics
from raydc.data.column_sums import CategoryCounts, ListSums, NumberSums
from raydc.data.text_shapes import (
    MISSING_WORDS,
    are_mostly,
    is_compact_day,
    is_date,
    is_identifier_name,
    is_iso_date,
    is_number,
    is_plain_number,
)
from raydc.errors import DataError, shown
from raydc.spec.document import quote
from raydc.spec.sections import Data

_MAX_NOTES_PER_COLUMN = 3
# Enough to tell dates from names, and little work for a column of millions of texts.
_MAX_SAMPLES = 1000
_MIN_WORDS_OF_TEXT = 4
_MAX_EXAMPLE_CHARS = 40
# A longer name in a header is more likely a value in the first row.
_MAX_NAME_CHARS = 80


def _column(name: str) -> str:
    return f"column {shown(name, _MAX_NAME_CHARS)}"


def to_exclude(names: Iterable[str], data: Data) -> str:
    """The field of the spec that leaves columns out, with those that it leaves out already.

    Args:
        names: Columns to leave out.
        data: Section `data` of the spec.
    """
    every = map(quote, dict.fromkeys((*data.features.exclude, *names)))
    return f"data.features.exclude: [{', '.join(every)}]"


def of_header(names: Sequence[str], path: str) -> Iterator[str]:
    """Yields a note if the header of a CSV file is probably its first row.

    Args:
        names: Cells of the first line, which were read as names.
        path: Path of the file, for the note.
    """
    odd = [name for name in names if is_plain_number(name) or len(name) > _MAX_NAME_CHARS]
    if odd:
        yield (
            f"note: the header of {path} looks like a row of values: it has "
            f"{shown(odd[0], _MAX_NAME_CHARS)}. If the file has no header, set "
            "data.csv.header: false"
        )


def of_statistics(total: RowStatistics, cleaner: Cleaner) -> Iterator[str]:
    """Yields notes about labels and categorical columns.

    Args:
        total: Merged statistics of all blocks.
        cleaner: Holds the kind of each column and the section `data` of the spec.
    """
    labels: Counter[str] = Counter()
    for counts in total.labels.values():
        labels.update({label: found.count for label, found in counts.items()})
    yield from _spellings(f"target {cleaner.data.target!r}", "classes", labels)
    if cleaner.data.task == "multilabel" and labels:
        yield from _delimiter(labels, sum(total.num_rows), cleaner.data)
    for name in cleaner.kinds:
        column = total.inputs[name]
        if isinstance(column, NumberSums) and cleaner.data.features.columns.get(name) == "date":
            yield from _days_as_seconds(name, column)
        if isinstance(column, ListSums) and column.num_cut:
            yield (
                f"note: {_column(name)} has {column.num_cut:,} lists of more than "
                f"{cleaner.data.features.max_items:,} items, and the rest of each is cut off; "
                "data.features.max_items keeps more"
            )
        if isinstance(column, CategoryCounts):
            yield from _words_for_missing(name, column.counts, cleaner.data)
            note = _kind_of_texts(name, column.counts, total.num_rows[TRAIN], cleaner)
            if note is not None:
                yield note
            else:
                # Only categories: any two texts or identifiers may look alike.
                yield from _spellings(_column(name), "categories", column.counts)


def _days_as_seconds(name: str, column: NumberSums) -> Iterator[str]:
    """Yields a note if seconds look like days that are written without hyphens."""
    if all(map(is_compact_day, (column.low, column.high))):
        yield (
            f"note: {_column(name)} is declared date, and its numbers from {column.low:.0f} to "
            f"{column.high:.0f} are taken as seconds since 1970, all in August of that year; if "
            "they are days, write them as 2024-02-29"
        )


def _delimiter(labels: Mapping[str, int], num_rows: int, data: Data) -> Iterator[str]:
    """Yields a note if rows seem to have one label each because another sign parts labels."""
    if data.label_columns is not None or sum(labels.values()) > num_rows:
        return
    signs = [sign for sign in ",;|/ " if sign not in data.label_delimiter]
    example = next((name for name in sorted(labels) if any(sign in name for sign in signs)), None)
    if example is not None:
        yield (
            f"note: target {data.target!r}: no row has two labels, and {shown(example)} looks like "
            f"several; if it is, set data.label_delimiter (now {data.label_delimiter!r})"
        )


def of_joins(total: BlockScan, data: Data) -> Iterator[str]:
    """Yields a line for each table of `data.joins`: how many rows have no match in it.

    Args:
        total: Merged scan of all blocks.
        data: Section `data` of the spec.

    Raises:
        DataError: No row has one.
    """
    # There are as many counts as bits, more than tables.
    for join, num_unmatched in zip(data.joins, total.num_unmatched, strict=False):
        if num_unmatched == total.num_rows:
            raise DataError(
                f"data.joins: none of {total.num_rows:,} rows has a match in {join.path}",
                f"Do {join.column_of_rows!r} of the rows and {join.key!r} of the table hold the "
                "same values?",
            )
        yield f"join with {join.path}: {num_unmatched:,} of {total.num_rows:,} rows have no match"


def of_scan(total: BlockScan, kinds: Mapping[str, str], data: Data, is_csv: bool) -> Iterator[str]:
    """Yields notes about columns that number the rows, and about cells with line breaks.

    Args:
        total: Merged scan of all blocks.
        kinds: Kind of each input column.
        data: Section `data` of the spec.
        is_csv: Whether the sources are CSV, where a lone quote joins lines to one cell.
    """
    for name, kind in kinds.items():
        column = total.columns[name]
        if kind != "numeric" or not column.rising.is_whole:
            continue
        if column.rising.rises and total.num_rows > 1:
            yield (
                f"note: {_column(name)} holds a whole number that is greater in each row than in "
                f"the one before; if it only tells rows apart, leave it out: "
                f"{to_exclude([name], data)}"
            )
        elif is_identifier_name(name):
            yield (
                f"note: {_column(name)} is named like an identifier or an index, but its numbers "
                "are taken as quantities; leave it out, or make them categories: "
                f"{to_exclude([name], data)}, or data.features.columns: "
                f"{{{quote(name)}: categorical}}"
            )
    for name, column in total.columns.items() if is_csv else ():
        if column.line_breaks.count:
            yield (
                f"note: {_column(name)} has cells with line breaks, {column.line_breaks.count:,} "
                f"in all, the first being {column.line_breaks.first_value}; if quotes are plain "
                "characters in this file, rows were joined: data.csv.quotes: none"
            )


def _spellings(what: str, plural: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yields notes about names that are different but look like one."""
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_folded(name), []).append(name)
    alike = sorted(sorted(names) for names in groups.values() if len(names) > 1)
    for names in alike[:_MAX_NOTES_PER_COLUMN]:
        listed = ", ".join(f"{shown(name)} ({counts[name]:,} rows)" for name in names[:4])
        yield (
            f"note: {what}: {listed} differ only in {_difference(names)}, and are "
            f"{len(names)} {plural}; write them alike if they are one"
        )
    if len(alike) > _MAX_NOTES_PER_COLUMN:
        more = len(alike) - _MAX_NOTES_PER_COLUMN
        yield f"note: {what}: {more:,} more groups of {plural} differ only in their spelling"


def _words_for_missing(name: str, counts: Mapping[str, int], data: Data) -> Iterator[str]:
    found = [word for word in MISSING_WORDS if word in counts]
    if found:
        listed = ", ".join(f"{word!r} ({counts[word]:,} rows)" for word in found)
        words = ", ".join(map(repr, (*data.clean.missing_values, *found)))
        yield (
            f"note: {_column(name)}: {listed} counts as a category; if it means that there is no "
            f"value: data.clean.missing_values: [{words}]"
        )


def _squeezed(name: str) -> str:
    return " ".join(name.split())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _number_of(name: str) -> str:
    try:
        # `float` also takes 1_000, which is more likely a code.
        return name if "_" in name else repr(float(name))
    except ValueError:
        return name


# From the smallest to the largest difference; each step includes those before it.
_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("blanks", _squeezed),
    ("their Unicode form", _composed),
    ("case", str.casefold),
    ("the spelling of a number", _number_of),
)


def _folded(name: str, num_folds: int = len(_FOLDS)) -> str:
    for _, fold in _FOLDS[:num_folds]:
        name = fold(name)
    return name


def spelt_like(name: str, names: Iterable[str]) -> str | None:
    """A hint that names a label that looks like another one; None if there is none.

    Args:
        name: A label that is unknown.
        names: Labels that are known, to compare it with.
    """
    alike = next((known for known in names if _folded(known) == _folded(name)), None)
    return None if alike is None else f"It differs from {alike!r} in {_difference([alike, name])}."


def _difference(names: list[str]) -> str:
    single = [what for what, fold in _FOLDS if len(set(map(fold, names))) == 1]
    return single[0] if single else "blanks, case or other spelling"


def _kind_of_texts(
    name: str, counts: Mapping[str, int], num_rows: int, cleaner: Cleaner
) -> str | None:
    """A note about a categorical column that holds something else; None if it does not seem so."""
    # Sorted, so that the note does not depend on which block came first.
    samples = sorted(counts)[:_MAX_SAMPLES]
    num_values, most = len(counts), cleaner.data.features.max_categories
    seen = f"note: {_column(name)} holds"
    example = shown(samples[0], _MAX_EXAMPLE_CHARS) if samples else ""
    exclude = f"leave it out: {to_exclude([name], cleaner.data)}"
    if num_values > 2 and are_mostly(samples, is_date):
        advice = "write dates as in 2024-02-29 or numbers that can be learnt from"
        if are_mostly(samples, is_iso_date):
            advice = f"data.features.columns: {{{name}: date}} makes numbers of them"
        return (
            f"{seen} dates or times ({example}), taken as {num_values:,} distinct categories; "
            f"{advice}, or {exclude}"
        )
    has_signs = are_mostly(samples, is_number) and not are_mostly(samples, is_plain_number)
    if num_values > 2 and has_signs:
        example = shown(
            next(text for text in samples if not is_plain_number(text)), _MAX_EXAMPLE_CHARS
        )
        return (
            f"{seen} numbers with commas, separators or signs ({example}), taken as "
            f"{num_values:,} distinct categories; write digits and a decimal point only, such as "
            "1234.5"
        )
    if num_values <= most:
        return None
    if sum(len(text.split()) for text in samples) >= _MIN_WORDS_OF_TEXT * len(samples):
        return (
            f"{seen} texts ({example}), from which raydc cannot learn: {num_values:,} different "
            f"values in {num_rows:,} training rows are taken as categories; {exclude}"
        )
    if num_values > num_rows // 2:
        return (
            f"note: {_column(name)} has {num_values:,} distinct values in {num_rows:,} training "
            f"rows; if it is an identifier, {exclude}"
        )
    return None
