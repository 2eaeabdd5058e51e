"""Writes a commented spec from a first look at the data. Pure; used by `raydc init`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from raydc.data.first_look import ColumnLook, FirstLook
from raydc.errors import UsageError, did_you_mean
from raydc.spec.data import Csv
from raydc.spec.document import quote

# Without one of these, a user has to say what is to be predicted.
_TARGET_NAMES = ("label", "target", "class", "y")
_MAX_CLASSES_SHOWN = 5
_MAX_IMAGE_SIDE = 96
# Rows up to which a step has fewer rows, so that an epoch has enough steps to learn from.
_BATCH_BY_ROWS = ((2_000, 16), (10_000, 64))
_DEFAULT_BATCH = 256
_COMMENT_COLUMN = 34


@dataclass(frozen=True)
class Choice:
    """What a draft is made for.

    Attributes:
        source: Path or URI as the user gave it.
        name: Name of the spec, and so of run and model.
        target: Column to predict; None to find it by its name.
        task: `classification` or `regression`; None to decide by the target's values.
        csv: Section `data.csv` of the draft.
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
        look: The first look at the source.
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
        look: The first look at the source.
        choice: What the user wants.

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
    fault = None
    if target.kind in ("other", "image"):
        fault = f"it holds {'an image' if target.kind == 'image' else 'lists or objects'}"
    elif not target.counts:
        fault = "none of the rows that were looked at has a value"
    elif task == "regression" and target.kind != "numeric":
        fault = f"{next(iter(target.counts))!r} is not a number"
    if fault is not None:
        raise UsageError(f"column {target.name!r} cannot be predicted: {fault}")


def _line(text: str, comment: str) -> str:
    # A class or a column may have any characters; a comment ends with its line.
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
    more = ", ..." if len(target.counts) > len(names) else ""
    return f"{len(target.counts)} classes: {', '.join(names)}{more}"


def _feature_lines(inputs: Sequence[ColumnLook]) -> Iterator[str]:
    images = [column for column in inputs if column.kind == "image"]
    left_out = [
        (column.name, column.fault or "an image is learnt from alone, for now")
        for column in inputs
        if column.fault is not None or (images and column is not images[0])
    ]
    if len(left_out) == len(inputs):
        raise UsageError(
            "no column is left to learn from: "
            + "; ".join(f"{name} {why}" for name, why in left_out)
        )
    sizes = {size for column in images for size in column.sizes}
    if not left_out and len(sizes) < 2:
        return
    yield "  features:"
    if left_out:
        yield _line("    exclude:", "columns that are not learnt from")
        for name, why in left_out:
            yield _line(f"      - {quote(name)}", why)
    if len(sizes) > 1:
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
        yield _line(f"    missing_values: [{words}]", "what stands where there is no value")
    if target.num_missing:
        yield _line("    missing_target: drop", f"{target.num_missing:,} rows have no target")


def _model_lines(inputs: Sequence[ColumnLook]) -> Iterator[str]:
    yield "model:"
    if any(column.kind == "image" for column in inputs):
        yield _line("  name: cnn", "or resnet18 and others of torchvision, or your own")
    else:
        yield _line("  name: mlp", "or linear, or your own")


def _train_lines(look: FirstLook) -> Iterator[str]:
    # Of a folder of images only some were looked at, of a large table the first rows.
    num_rows = max(look.num_rows, len(look.layout.files))
    known = look.is_whole or look.layout.format == "image_folder"
    batch = next((size for most, size in _BATCH_BY_ROWS if known and num_rows <= most), None)
    yield "train:"
    yield _line("  epochs: 20", "most passes over the training rows")
    yield _line("  early_stop: {patience: 5}", "or fewer, if the validation rows show no progress")
    if batch is not None:
        yield _line(f"  global_batch_size: {batch}", f"small, because {num_rows:,} rows are few")
    else:
        yield f"  global_batch_size: {_DEFAULT_BATCH}"
    yield "  learning_rate: 0.001"
