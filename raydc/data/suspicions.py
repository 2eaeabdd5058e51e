"""Findings of an inspection that a person should look at. Pure; used in the driver.

These are questions, not verdicts: nothing here changes what a preparation does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from raydc.data.inspection import InspectedColumn, Inspection
from raydc.errors import shown

# AUC of the target by one column: from the first value on the column is mentioned, from the second
# on it is taken for a leak.
_MUCH_AUC, _ALL_AUC = 0.8, 0.98
_MUCH_R2, _ALL_R2 = 0.75, 0.98
_MOSTLY_MISSING = 0.5
_RARE_CLASS = 0.05


@dataclass(frozen=True)
class Suspicion:
    """One thing to look at.

    Attributes:
        level: `high` if scores on held-out rows cannot be trusted before it is settled, else `low`.
        about: Kind of suspicion: `leak`, `copies`, `drift`, `balance` or `column`.
        text: What was found and what to do, in one or two sentences.
    """

    level: Literal["high", "low"]
    about: str
    text: str


def find(found: Inspection) -> list[Suspicion]:
    """Finds what stands out, strong suspicions first."""
    every = [*_leaks(found), *_copies(found), *_drift(found), *_balance(found), *_columns(found)]
    # The sort is stable, so the order above holds within a level.
    return sorted(every, key=lambda one: one.level != "high")


def _leaks(found: Inspection) -> Iterator[Suspicion]:
    if found.identity is not None:
        holds, of = found.identity_rows
        yield Suspicion(
            "high",
            "leak",
            f"{found.target.name} = {found.identity} in {holds:,} of {of:,} rows: these columns "
            "hold the answer. Leave them out with data.features.exclude, unless they are known "
            "when you predict.",
        )
    much, all_ = (_MUCH_AUC, _ALL_AUC) if found.measure == "AUC" else (_MUCH_R2, _ALL_R2)
    strong = [
        (column.power, column)
        for column in found.columns
        if column.power is not None and column.power >= much
    ]
    for power, column in sorted(strong, key=lambda item: -item[0]):
        says = "nearly determines" if power >= all_ else "is a strong predictor of"
        yield Suspicion(
            "high" if power >= all_ else "low",
            "leak",
            f"column {_name(column)} alone {says} the target ({found.measure} {power:.3f}). Is it "
            "known when you predict? If not, leave it out with data.features.exclude.",
        )


def _copies(found: Inspection) -> Iterator[Suspicion]:
    for pair, count in found.copies.across.items():
        first, second = pair.split("/")
        num_rows = found.num_rows[second]
        if count:
            # One percent of the held-out rows can change a score by one percent.
            yield Suspicion(
                "high" if count >= 0.01 * num_rows else "low",
                "copies",
                f"{count:,} of {num_rows:,} {second} rows have the same inputs as a {first} row"
                f"{_example(found.copy_places.get(pair))}. data.clean.duplicates: drop leaves out "
                "rows that are equal in every column.",
            )
    repeated = sum(found.copies.repeated)
    if repeated:
        yield Suspicion(
            "low",
            "copies",
            f"{repeated:,} rows repeat the inputs of an earlier row of their split.",
        )
    if found.copies.conflicts:
        yield Suspicion(
            "low",
            "copies",
            f"{found.copies.conflicts:,} groups of rows have equal inputs and different targets"
            f"{_example(next(iter(found.conflict_places), None))}: no model can tell them apart.",
        )


def _example(places: tuple[str, str] | None) -> str:
    return f", such as {places[1]} and {places[0]}" if places else ""


def _drift(found: Inspection) -> Iterator[Suspicion]:
    for column in found.columns:
        for split in column.drifted:
            psi = column.psi[split]
            what = "the target" if column.is_target else f"column {_name(column)}"
            yield Suspicion(
                "high" if psi >= 0.25 else "low",
                "drift",
                f"{what} differs between the training rows and the {split} rows (PSI {psi:.2f}).",
            )


def _balance(found: Inspection) -> Iterator[Suspicion]:
    if found.task != "classification":
        return
    counts = found.target.whole.categories
    total = sum(counts.values())
    if not total:
        return
    rare = sorted((count, name) for name, count in counts.items() if count < _RARE_CLASS * total)
    most, common = max((count, name) for name, count in counts.items())
    if rare and len(counts) <= 2 / _RARE_CLASS:
        listed = ", ".join(f"{shown(name)} ({count:,})" for count, name in rare[:5])
        yield Suspicion(
            "low",
            "balance",
            f"rare classes: {listed} of {total:,} rows. train.loss.class_weights: balanced gives "
            "each class the same weight.",
        )
    elif most > 2 * total / 3:
        yield Suspicion(
            "low",
            "balance",
            f"{most / total:.1%} of the rows are {shown(common)}: a model that always "
            "answers so has this accuracy.",
        )
    for split, profile in zip(found.num_rows, found.target.profiles, strict=True):
        absent = [name for name in counts if name not in profile.categories]
        if absent and found.num_rows[split]:
            listed = ", ".join(map(shown, sorted(absent)[:5]))
            yield Suspicion("low", "balance", f"no {split} row has the class {listed}.")


def _columns(found: Inspection) -> Iterator[Suspicion]:
    for column in found.columns:
        whole, num_rows = column.whole, sum(found.num_rows.values())
        numbers = whole.numbers
        is_constant = (numbers and numbers.sums.low == numbers.sums.high) or (
            column.kind == "categorical" and len(whole.categories) == 1
        )
        if is_constant and not whole.num_missing:
            yield Suspicion(
                "low", "column", f"column {_name(column)} has the same value in every row."
            )
        elif whole.num_missing > _MOSTLY_MISSING * num_rows:
            yield Suspicion(
                "low",
                "column",
                f"column {_name(column)} has no value in {whole.num_missing / num_rows:.0%} of the "
                "rows.",
            )


def _name(column: InspectedColumn) -> str:
    return shown(column.name, 80)
