"""Checks that span several fields of a spec. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raydc.errors import Problem
from raydc.spec.document import Path
from raydc.spec.loss import LOSSES
from raydc.spec.sections import Sources, Spec
from raydc.spec.train import SCORES


def problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """Yields the conflicts between fields that are each valid alone.

    Args:
        spec: A spec whose fields are valid.
        where: Maps a path to its place in the file, for the message.
    """
    allowed = (*SCORES[spec.data.task], "loss")
    if spec.train.metric is not None and spec.train.metric not in allowed:
        message = (
            f"{spec.train.metric!r} is not a metric of {spec.data.task}; "
            f"choose {', '.join(allowed)}"
        )
        yield Problem(where(("train", "metric")), "train.metric", message)
    losses = LOSSES[spec.data.task]
    if spec.train.loss is not None and spec.train.loss.name not in losses:
        message = (
            f"{spec.train.loss.name!r} is not a loss of {spec.data.task}; "
            f"choose {', '.join(losses)}"
        )
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
    # If the source brings its test rows, only validation rows are taken from the rest.
    if isinstance(spec.data.source, Sources) and spec.data.split.test_fraction:
        message = "the source has a test part already; leave test_fraction out"
        yield Problem(
            where(("data", "split", "test_fraction")), "data.split.test_fraction", message
        )
    split, parts = spec.data.split, isinstance(spec.data.source, Sources)
    if not split.validation_fraction and split.test_fraction == 0 and not parts:
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
