"""Checks of a spec as a user writes it: what nothing would read, passwords, shared GPUs. Pure.

A stored spec is read without them: a model that was trained beside such an option is served as
before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from raydc.errors import Problem
from raydc.spec.base import Section
from raydc.spec.cleaning import Clean, ColumnCleaning
from raydc.spec.data import Csv, Data, Sources
from raydc.spec.document import Path
from raydc.spec.feature_options import FeatureOptions, TextOptions
from raydc.spec.forecast_models import LinearForecaster
from raydc.spec.language import LANGUAGE
from raydc.spec.loss import LOSSES
from raydc.spec.metric import RANKED_TASKS
from raydc.spec.model import Fusion, TwoTowers
from raydc.spec.model_section import ModelSection
from raydc.spec.row_sources import SqlQuery
from raydc.spec.sections import HuggingFace, Spec
from raydc.spec.sweep_section import LATENCY, LEARNING

_Found = Iterator[tuple[Path, str]]
_BEFORE_HOST = re.compile(r"://[^/@]*:[^/@]+@")
# Parameters of libpq that hold a secret.
_PASSWORD = re.compile(r"[?&]\s*(password|sslpassword|oauth_client_secret)\s*=", re.IGNORECASE)
_LIMITED = ("clip", "drop")
# Rates after the warm-up that read a field of `lr_scheduler`.
_SCHEDULES = {"final_fraction": ("cosine", "linear"), "step_epochs": ("step",), "gamma": ("step",)}


def written_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields passwords, workers that cannot start, and options that change nothing, with reasons.

    Args:
        spec: A spec whose fields are valid.
        where: Maps a path to its place in the file, for the message.
    """
    for path in (*_passwords(spec.data), *_passwords_of_studies(spec)):
        message = "holds a password; give it as $NAME, an environment variable"
        yield Problem(where(path), ".".join(map(str, path)), message)
    sweep = spec.sweep
    for name in ("lag", "warm_start"):
        if sweep and sweep.search_alg not in LEARNING and _is_given(sweep, name):
            message = f"it is for {', '.join(LEARNING)}, not for search_alg: {sweep.search_alg}"
            yield Problem(where(("sweep", name)), f"sweep.{name}", message)
    if sweep and LATENCY not in sweep.costs and _is_given(sweep, "latency_rows"):
        message = f"neither objectives nor constraints name {LATENCY}"
        yield Problem(where(("sweep", "latency_rows")), "sweep.latency_rows", message)
    for path, message in _of_gpus(spec):
        yield Problem(where(path), ".".join(map(str, path)), message)
    searched = tuple(spec.sweep.space) if spec.sweep else ()
    for path, message in (*_of_model(spec), *_of_train(spec), *_of_data(spec.data)):
        section = ".".join(map(str, path[:1] if path[0] == "model" else path[:2]))
        # A trial of a sweep may read what the spec alone would not.
        if not any(name == section or name.startswith(f"{section}.") for name in searched):
            yield Problem(where(path), ".".join(map(str, path)), message)


def _of_gpus(spec: Spec) -> _Found:
    """Yields what Ray or NCCL would refuse once the workers have started."""
    scaling = spec.scaling
    amount = scaling.worker_resources.get("GPU")
    # Workers join a trial only where each has a GPU of its own.
    workers = scaling.min_workers if spec.sweep else scaling.max_workers
    if amount is None or workers < 1:
        return
    message = None
    if scaling.use_gpu is False and not spec.sweep:
        message = f"{amount:g} GPU for each worker, and use_gpu: false; leave one of them out"
    elif workers > 1 and scaling.shares_gpus:
        message = (
            f"{amount:g} GPU for each of {workers} workers puts "
            f"{min(workers, int(1 / amount + 1e-9))} of them on one GPU, and NCCL refuses a GPU "
            "that has two workers of a group; give each more than 0.5, or have 1 worker"
        )
    if message is not None:
        yield ("scaling", "resources_per_worker", "GPU"), message


def _passwords(data: Data) -> Iterator[Path]:
    """Places of passwords among the parameters of a URI; those before the host are refused too."""
    source = data.source
    parts: dict[Path, Any] = {("data", "source"): source}
    if isinstance(source, Sources):
        parts = {("data", "source", name): getattr(source, name) for name in ("train", "test")}
    for path, part in parts.items():
        if isinstance(part, SqlQuery) and _PASSWORD.search(unquote(part.connection)):
            yield (*path, "connection")


def _passwords_of_studies(spec: Spec) -> Iterator[Path]:
    for number, name in enumerate(spec.sweep.warm_start if spec.sweep else ()):
        if _BEFORE_HOST.search(name) or _PASSWORD.search(unquote(name)):
            yield ("sweep", "warm_start", number)


def _is_given(section: Section, name: str) -> bool:
    # A spec that was written out has all fields, so that one with its default says nothing.
    field = type(section).model_fields[name]
    return bool(getattr(section, name) != field.get_default(call_default_factory=True))


def _of_model(spec: Spec) -> _Found:
    model, text = spec.model, spec.data.features.text
    if isinstance(model, HuggingFace) and text.tokenizer is None and _is_given(text, "vocabulary"):
        message = "the tokenizer of the model has its own; leave it out"
        yield ("data", "features", "text", "vocabulary"), message
    yield from _of_weights(model, ("model",))
    if isinstance(model, LinearForecaster) and model.name == "nlinear":
        if _is_given(model, "kernel"):
            yield ("model", "kernel"), "nlinear has no moving average; it is for dlinear"
    elif isinstance(model, TwoTowers) and not model.hidden:
        if _is_given(model, "activation"):
            message = "it is for hidden layers, and there are none; set hidden"
            yield ("model", "activation"), message
    elif isinstance(model, Fusion):
        if model.image is not None:
            yield from _of_weights(model.image, ("model", "image"))
        if model.table == []:
            message = "there is at least one layer; leave it out for the default"
            yield ("model", "table"), message


def _of_weights(model: ModelSection, path: Path) -> _Found:
    if model.weights_sha256 is not None and model.weights_file is None:
        message = "it is that of a file, and weights names none"
        yield (*path, "weights_sha256"), message


def _of_train(spec: Spec) -> _Found:
    train, task = spec.train, spec.data.task
    loss, schedule, sampling = train.loss, train.lr_scheduler, train.sampling
    # A loss of this name may be for labels as well, where the option is read.
    is_of_classes = loss is not None and loss.name in LOSSES["classification"]
    if loss is not None and is_of_classes and task == "classification" and loss.positive_weights:
        message = "it is for task: multilabel; class_weights weigh classes"
        yield ("train", "loss", "positive_weights"), message
    for name, readers in _SCHEDULES.items():
        if schedule.name not in readers and _is_given(schedule, name):
            message = f"it is for {' and '.join(readers)}, not for {schedule.name}"
            yield ("train", "lr_scheduler", name), message
    is_under = sampling is not None and sampling.name == "undersample"
    if sampling is not None and is_under and _is_given(sampling, "max_repeats"):
        message = "no row is repeated; it is for balanced and oversample"
        yield ("train", "sampling", "max_repeats"), message
    if spec.data.query is None and _is_given(train, "ndcg_k"):
        yield ("train", "ndcg_k"), "no rows are ranked; name the column of their groups: data.query"


def _of_data(data: Data) -> _Found:
    if data.query is not None:
        if data.task not in RANKED_TASKS:
            message = "rows are ranked by a value or a class, and these have labels; leave it out"
            yield ("data", "query"), message
        elif data.windows is not None and data.windows.horizon > 1:
            yield ("data", "query"), "a forecast of several steps is not ranked; leave it out"
    if data.label_columns is not None and _is_given(data, "label_delimiter"):
        yield ("data", "label_delimiter"), "the labels are those of label_columns; leave it out"
    windows = data.windows
    if windows is not None and windows.gaps == "ignore" and windows.step is not None:
        yield ("data", "windows", "step"), "gaps: ignore takes rows at any step; leave one out"
    # A joined table may be CSV, whatever the rows are.
    is_other = data.format not in ("auto", "csv") and not data.joins
    if is_other and data.csv != Csv():
        yield ("data", "csv"), f"the rows are {data.format}, not CSV"
    yield from _of_features(data.features, is_text=data.task == LANGUAGE)
    yield from _of_cleaning(data.clean)


def _of_features(features: FeatureOptions, is_text: bool) -> _Found:
    path = ("data", "features")
    for name, encoding in (("hash_buckets", "hashing"), ("target_smoothing", "target")):
        if encoding not in features.encodings.values() and _is_given(features, name):
            yield (*path, name), f"no column has it; set encodings: {{COLUMN: {encoding}}}"
    # A text is never told from categories by its content.
    if "text" not in features.columns.values() and not is_text:
        if features.text != TextOptions():
            yield (*path, "text"), "no column is a text; set columns: {COLUMN: text}"
    elif (
        not is_text
        and features.text.tokenizer is not None
        and _is_given(features.text, "vocabulary")
    ):
        yield (*path, "text", "vocabulary"), "the tokenizer has its own; leave it out"


def _of_cleaning(clean: Clean) -> _Found:
    path = ("data", "clean")
    columns = {name: clean.of(name) for name in clean.columns}
    every: list[Clean | ColumnCleaning] = [clean, *columns.values()]
    if not any(one.outliers in _LIMITED for one in every):
        yield from (((*path, name), _no_limit(clean.outliers)) for name in _limits(clean))
    for column, own in clean.columns.items():
        if columns[column].outliers not in _LIMITED:
            for name in _limits(own):
                yield (*path, "columns", column, name), _no_limit(columns[column].outliers)
    if clean.indicator and not any(_fills(one) for one in every):
        yield (*path, "indicator"), f"missing: {clean.missing} leaves no row without a value"
    for column, own in clean.columns.items():
        if own.indicator and not _fills(columns[column]):
            message = f"missing: {columns[column].missing} leaves no row without a value"
            yield (*path, "columns", column, "indicator"), message


def _limits(section: Clean | ColumnCleaning) -> list[str]:
    names = ("outlier_quantile", "outlier_deviations")
    return [name for name in names if getattr(section, name) is not None]


def _no_limit(policy: Any) -> str:
    return f"outliers: {policy} has no limits; it is for clip and drop"


def _fills(section: Clean | ColumnCleaning) -> bool:
    return section.missing not in ("drop", "error")
