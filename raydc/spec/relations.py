"""Checks that span several fields of a spec. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raydc.errors import Problem
from raydc.spec.document import Path
from raydc.spec.language import LANGUAGE, language_problems
from raydc.spec.loss import LOSSES
from raydc.spec.metric import RANKED_TASKS, RANKING, known_names
from raydc.spec.sections import HuggingFace, Sources, Spec
from raydc.spec.windows import window_problems

_WITHOUT_CLASSES = {
    "regression": "a regression has none",
    "multilabel": "these have labels",
    LANGUAGE: "texts have none",
}


def problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields the conflicts between fields that are each valid alone.

    Args:
        spec: A spec whose fields are valid.
        where: Maps a path to its place in the file, for the message.
    """
    yield from window_problems(spec, where)
    yield from language_problems(spec, where)
    if isinstance(spec.model, HuggingFace) and spec.data.task != LANGUAGE:
        yield from _encoder_problems(spec, where)
    if spec.data.features.text.pair is not None:
        yield from _pair_problems(spec, where)
    yield from _folder_problems(spec, where)
    allowed = (*known_names(spec.data.task, spec.data.query), "loss")
    named = {
        "metric": [spec.train.metric] if spec.train.metric else [],
        "metrics": spec.train.metrics,
    }
    for field, names in named.items():
        for name in names:
            if name not in allowed and ":" not in name:
                message = (
                    f"{name!r} is not a metric of {spec.data.task}; choose {', '.join(allowed)}"
                )
                if name in RANKING and spec.data.task in RANKED_TASKS:
                    message = f"{name} ranks rows in groups; name their column in data.query"
                yield Problem(where(("train", field)), f"train.{field}", message)
    if spec.train.sampling is not None and spec.data.task != "classification":
        has = _WITHOUT_CLASSES[spec.data.task]
        message = f"rows are sampled by class, and {has}"
        yield Problem(where(("train", "sampling")), "train.sampling", message)
    if spec.train.micro_batch_size == "auto" and spec.sweep:
        message = "each trial would find a number of its own; give a number"
        yield Problem(where(("train", "micro_batch_size")), "train.micro_batch_size", message)
    if spec.train.group_by_length and spec.data.task == LANGUAGE:
        message = "rows of documents are packed to one length; leave it out"
        yield Problem(where(("train", "group_by_length")), "train.group_by_length", message)
    if spec.train.threshold is not None:
        yield from _threshold_problems(spec, where)
    if spec.train.metric is not None and ":" in spec.train.metric and spec.train.mode is None:
        message = "say whether more or less of your own metric is better: max or min"
        yield Problem(where(("train", "metric")), "train.mode", message)
    losses, loss = LOSSES[spec.data.task], spec.train.loss
    is_named = loss is not None and ":" not in loss.name
    if loss is not None and is_named and losses and loss.name not in losses:
        message = f"{loss.name!r} is not a loss of {spec.data.task}; choose {', '.join(losses)}"
        yield Problem(where(("train", "loss")), "train.loss", message)
    # A worker without a shard would hold resources and compute nothing.
    shards, workers = spec.train.logical_shards, spec.scaling.max_workers
    if shards is not None and shards < workers:
        message = f"{shards} shards cannot keep {workers} workers busy; give at least {workers}"
        yield Problem(where(("train", "logical_shards")), "train.logical_shards", message)
    # Not implied by the shards, whose number may not be given yet.
    if spec.train.global_batch_size < workers:
        message = (
            f"{spec.train.global_batch_size} rows cannot keep {workers} workers busy; "
            f"give at least {workers}"
        )
        yield Problem(where(("train", "global_batch_size")), "train.global_batch_size", message)
    rows = spec.train.global_batch_size // (shards or max(1, workers))
    if spec.data.augment and spec.data.augment.mixes and rows < 2:
        message = (
            "it mixes rows of one logical shard, and a shard of this spec has only one; give a "
            "larger global_batch_size, or fewer logical_shards"
        )
        field = "mixup" if spec.data.augment.mixup is not None else "cutmix"
        yield Problem(where(("data", "augment", field)), f"data.augment.{field}", message)
    # If the source brings its test rows, only validation rows are taken from the rest.
    if isinstance(spec.data.source, Sources) and spec.data.split.test_fraction:
        message = "the source has a test part already; leave test_fraction out"
        yield Problem(
            where(("data", "split", "test_fraction")), "data.split.test_fraction", message
        )
    split, parts = spec.data.split, isinstance(spec.data.source, Sources)
    is_told = parts or split.by == "column"
    if not split.validation_fraction and split.test_fraction == 0 and not is_told:
        message = (
            "no row would be held out for the evaluation; "
            "set validation_fraction or test_fraction above 0"
        )
        yield Problem(where(("data", "split")), "data.split", message)
    if spec.train.early_stop and not spec.data.split.validation_fraction:
        message = "early_stop needs validation rows; set data.split.validation_fraction above 0"
        yield Problem(where(("train", "early_stop")), "train.early_stop", message)
    if spec.sweep and not spec.data.split.validation_fraction:
        message = (
            "a sweep compares trials on validation rows; set data.split.validation_fraction above 0"
        )
        yield Problem(where(("sweep",)), "sweep", message)


def _encoder_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    texts = [name for name, kind in spec.data.features.columns.items() if kind == "text"]
    if len(texts) == 2 and spec.data.features.text.pair is not None:
        return
    if len(texts) != 1:
        found = f"{', '.join(texts)} are several" if texts else "there is none"
        message = (
            f"huggingface reads one text, and {found}; data.features.columns: {{COLUMN: text}}, "
            "and data.features.text.pair for two of them"
        )
        yield Problem(where(("model", "name")), "model.name", message)


def _pair_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields what is wrong with two texts that become one list of tokens."""
    text, columns = spec.data.features.text, spec.data.features.columns
    path = ("data", "features", "text", "pair")
    first, second = text.pair or ("", "")
    message = None
    if spec.data.task == LANGUAGE:
        message = "a language model reads one text"
    elif first == second:
        message = f"{first!r} is named twice"
    elif others := [name for name in (first, second) if columns.get(name) != "text"]:
        message = f"{others[0]!r} is no text; data.features.columns: {{{others[0]}: text}}"
    elif text.tokenizer is None and not isinstance(spec.model, HuggingFace):
        message = "a pair is joined by a tokenizer; give data.features.text.tokenizer"
    if message is not None:
        yield Problem(where(path), "data.features.text.pair", message)


def _folder_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields the paths of a search space that would give trials different pretrained models.

    All trials share what the run has noted of one folder, and rows with the tokens of it.
    """
    for path, domain in spec.sweep.space.items() if spec.sweep else ():
        parts = path.split(".")
        sections = [one for one in domain.examples() if isinstance(one, dict)]
        names = [one.get("name") for one in sections] if path == "model" else []
        of_folder = isinstance(spec.model, HuggingFace) and parts[:1] == ["model"]
        if of_folder and parts[1:2] in (["path"], ["content"]):
            message = "trials share one pretrained model; give each model a sweep of its own"
        elif "huggingface" in names or (of_folder and path == "model"):
            message = (
                "trials share one pretrained model and its tokenizer; search fields of one model, "
                "such as model.freeze, and give each other model a sweep of its own"
            )
        else:
            continue
        yield Problem(where(("sweep", "space", path)), f"sweep.space.{path}", message)


def _threshold_problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    path, section = ("train", "threshold"), spec.train.threshold
    if spec.data.task in ("regression", LANGUAGE):
        yield Problem(where(path), "train.threshold", "a threshold is for classes and labels")
    elif section is not None and section.positive is not None and spec.data.task == "multilabel":
        message = "one of two classes is positive; each label is for itself"
        yield Problem(where((*path, "positive")), "train.threshold.positive", message)
    elif section is not None and not section.each_label and spec.data.task == "classification":
        message = "it is for task: multilabel; two classes have one threshold"
        yield Problem(where((*path, "each_label")), "train.threshold.each_label", message)
    elif not spec.data.split.validation_fraction:
        message = "it is chosen on validation rows; set data.split.validation_fraction above 0"
        yield Problem(where(path), "train.threshold", message)
