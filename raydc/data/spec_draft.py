"""Writes a commented spec from a first look at the data. Pure; used by `raydc init`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from raydc.data.first_look import ColumnLook, FirstLook
from raydc.errors import UsageError, did_you_mean
from raydc.spec.data import Csv
from raydc.spec.document import quote

# A column with one of these names is the target, unless the user gives another.
_TARGET_NAMES = ("label", "target", "class", "y")
_MAX_CLASSES_SHOWN = 5
_MAX_IMAGE_SIDE = 96
# Batch size by maximum number of rows: small data sets get small batches, so that an epoch has
# enough steps.
_BATCH_BY_ROWS = ((2_000, 16), (10_000, 64))
_DEFAULT_BATCH = 256
_COMMENT_COLUMN = 34
_KIND_COMMENTS = {
    "text": "sentences, learnt from as lists of tokens",
    "date": "learnt from as time, month, day of the week and hour",
}


@dataclass(frozen=True)
class Choice:
    """What the user has decided; the rest of a draft follows from the data.

    Attributes:
        source: Path or URI as the user gave it.
        name: Name of the spec, and so of run and model.
        target: Column to predict; None to find it by its name.
        task: `classification` or `regression`; None to decide by the target's values.
        csv: Section `data.csv` with which the source could be read.
    """

    source: str
    name: str
    target: str | None = None
    task: str | None = None
    csv: Csv = field(default_factory=Csv)


def name_of(source: str) -> str:
    """Makes a name of a source: `data/Telco Churn.csv` becomes `telco-churn`."""
    stem = source.rstrip("/").rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_") or "model"


def find_target(look: FirstLook, given: str | None) -> ColumnLook:
    """Finds the column to predict.

    Args:
        look: First rows of the source, with its columns.
        given: Name that the user gave; None to take the only column that is named like a target.

    Raises:
        UsageError: There is no such column, or none was given and none is named like one.
    """
    names = [column.name for column in look.columns]
    if given is not None:
        found = look.find(given)
        if found is None:
            advice = did_you_mean(given, names, starts_sentence=True)
            raise UsageError(
                f"there is no column {given!r} in {look.layout.files[0].path}",
                f"{advice} There are {', '.join(names)}.".lstrip(),
            )
        return found
    likely = [column for column in look.columns if column.name.lower() in _TARGET_NAMES]
    if len(likely) != 1:
        raise UsageError(
            "which column is to be predicted?",
            f"Give --target NAME. The columns are {', '.join(names)}.",
        )
    return likely[0]


def draft_spec(look: FirstLook, choice: Choice) -> str:
    """Writes a spec with a comment at each choice that was made.

    Args:
        look: First rows of the source, with what was found in each column.
        choice: What the user has decided.

    Returns:
        YAML.

    Raises:
        UsageError: The target is not there or cannot be predicted, or no column is left.
    """
    target = find_target(look, choice.target)
    task = choice.task or ("regression" if target.is_amount else "classification")
    _refuse_target(target, task)
    inputs = [column for column in look.columns if column is not target]
    lines = [
        "# Written by `raydc init`. Comments say what was guessed from the first rows, and why.",
        "# Change what you like; docs/reference/spec.md describes all fields.",
        f"name: {choice.name}",
        "",
        "data:",
        f"  source: {quote(choice.source)}",
        *_csv_lines(choice),
        _line(f"  target: {quote(target.name)}", _describe_target(target, task)),
        *(["  task: regression"] if task == "regression" else []),
        *_feature_lines(inputs),
        *_clean_lines(target, inputs),
        "",
        *_model_lines(inputs),
        "",
        *_train_lines(look),
        "",
        "serve:",
        _line("  auth: none", "no access tokens: the endpoint listens on this machine only"),
    ]
    return "\n".join(lines) + "\n"


def _refuse_target(target: ColumnLook, task: str) -> None:
    fault = hint = None
    if target.kind in ("other", "image", "list", "array"):
        fault = f"it holds {'an image' if target.kind == 'image' else 'lists or objects'}"
        if target.kind == "other":
            hint = "Lists of labels are a task of their own: `data.task: multilabel`."
    elif not target.counts:
        fault = "none of the rows that were looked at has a value"
    elif task == "regression" and target.kind != "numeric":
        fault = f"{next(iter(target.counts))!r} is not a number"
    if fault is not None:
        raise UsageError(f"column {target.name!r} cannot be predicted: {fault}", hint)


def _line(text: str, comment: str) -> str:
    # Names from the data may hold line breaks, which would end the comment.
    shown = "".join(sign if sign.isprintable() else " " for sign in comment)
    return f"{text.ljust(_COMMENT_COLUMN)}# {shown}"


def _csv_lines(choice: Choice) -> Iterator[str]:
    if choice.csv.delimiter is not None:
        yield "  csv:"
        yield f"    delimiter: {quote(choice.csv.delimiter)}"
    elif not choice.csv.header:
        yield "  csv:"
    if not choice.csv.header:
        yield _line("    header: false", "the first line looks like a row of values")


def _describe_target(target: ColumnLook, task: str) -> str:
    if task == "regression":
        low, high = min(map(float, target.counts)), max(map(float, target.counts))
        return f"a number, from {low:g} to {high:g}"
    names = sorted(target.counts)[:_MAX_CLASSES_SHOWN]
    # A class of few rows is why an accuracy may be high for nothing.
    num_rows = sum(target.counts.values())
    shown = ", ".join(f"{name} ({target.counts[name] / num_rows:.0%})" for name in names)
    more = ", ..." if len(target.counts) > len(names) else ""
    return f"{len(target.counts)} classes: {shown}{more}"


def _feature_lines(inputs: Sequence[ColumnLook]) -> Iterator[str]:
    left_out = [(column.name, column.fault) for column in inputs if column.fault is not None]
    if len(left_out) == len(inputs):
        raise UsageError(
            "no column is left to learn from: "
            + "; ".join(f"{name} {why}" for name, why in left_out)
        )
    images = [column for column in inputs if column.kind == "image"]
    # A network takes images of one size in each column; columns may differ.
    sizes = {size for column in images if len(column.sizes) > 1 for size in column.sizes}
    declared = {
        column.name: column.kind
        for column in inputs
        if column.kind in _KIND_COMMENTS and column.fault is None
    }
    if not left_out and not sizes and not declared:
        return
    yield "  features:"
    if left_out:
        yield _line("    exclude:", "columns that are not learnt from")
        for name, why in left_out:
            yield _line(f"      - {quote(name)}", why)
    if declared:
        yield "    columns:"
        for name, kind in declared.items():
            yield _line(f"      {quote(name)}: {kind}", _KIND_COMMENTS[kind])
    if sizes:
        side = min(_MAX_IMAGE_SIDE, max(8, min(min(size) for size in sizes) // 8 * 8))
        yield _line(f"    image_size: [{side}, {side}]", "the images differ in size: height, width")


def _clean_lines(target: ColumnLook, inputs: Sequence[ColumnLook]) -> Iterator[str]:
    markers = dict.fromkeys(
        marker
        for column in (target, *inputs)
        if column is target or column.fault is None
        for marker in column.markers
    )
    if not markers and not target.num_missing:
        return
    yield "  clean:"
    if markers:
        words = ", ".join(map(quote, ("", *markers)))
        yield _line(f"    missing_values: [{words}]", "texts that mean: there is no value")
    if target.num_missing:
        yield _line("    missing_target: drop", f"{target.num_missing:,} rows have no target")


def _model_lines(inputs: Sequence[ColumnLook]) -> Iterator[str]:
    inputs = [column for column in inputs if column.fault is None]
    yield "model:"
    if any(column.kind == "image" for column in inputs) and len(inputs) > 1:
        yield _line("  name: fusion", "a network for each image, and one for the other columns")
    elif any(column.kind == "image" for column in inputs):
        yield _line("  name: cnn", "or resnet18 and others of torchvision, or your own")
    elif any(column.kind == "list" for column in inputs):
        yield _line("  name: gru", "reads lists item by item; or lstm, transformer, mlp, linear")
    elif any(column.kind == "text" for column in inputs):
        yield _line("  name: mlp", "the mean of all tokens; or gru, lstm, transformer, linear")
    else:
        yield _line("  name: mlp", "or linear, or your own")


def _train_lines(look: FirstLook) -> Iterator[str]:
    # A first look reads some images of a folder, or the first rows of a table.
    num_rows = max(look.num_rows, len(look.layout.files))
    known = look.is_whole or look.layout.format == "image_folder"
    batch = next((size for most, size in _BATCH_BY_ROWS if known and num_rows <= most), None)
    yield "train:"
    yield _line("  epochs: 20", "at most this many passes over the training rows")
    yield _line(
        "  early_stop: {patience: 5}", "ends after 5 epochs without a better validation score"
    )
    if batch is not None:
        yield _line(
            f"  global_batch_size: {batch}", f"small, because there are only {num_rows:,} rows"
        )
    else:
        yield f"  global_batch_size: {_DEFAULT_BATCH}"
    yield "  learning_rate: 0.001"
