"""What fields of a spec must be to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raydc.errors import Problem
from raydc.spec.document import Path
from raydc.spec.sections import Sources, Spec
from raydc.spec.train import SCORES


def problems(spec: Spec, where: Callable[[Path], str]) -> Iterator[Problem]:
    """What is wrong between the fields of a spec, each of which is right by itself.

    Args:
        spec: Of valid fields.
        where: The place in the file of a path.
    """
    allowed = (*SCORES[spec.data.task], "loss")
    if spec.train.metric is not None and spec.train.metric not in allowed:
        message = (
            f"{spec.train.metric!r} is no metric of a {spec.data.task}; choose {', '.join(allowed)}"
        )
        yield Problem(where(("train", "metric")), "train.metric", message)
    shards, workers = spec.train.logical_shards, spec.scaling.max_workers
    if shards is not None and shards < workers:
        message = f"{shards} shards cannot occupy {workers} workers; give at least {workers}"
        yield Problem(where(("train", "logical_shards")), "train.logical_shards", message)
    if spec.train.global_batch_size < workers:
        message = f"{spec.train.global_batch_size} rows cannot occupy {workers} workers; give at least {workers}"
        yield Problem(where(("train", "global_batch_size")), "train.global_batch_size", message)
    if isinstance(spec.data.source, Sources) and spec.data.split.test_fraction:
        message = "the source has its own test part; leave test_fraction out"
        yield Problem(
            where(("data", "split", "test_fraction")), "data.split.test_fraction", message
        )
    split, parts = spec.data.split, isinstance(spec.data.source, Sources)
    if not split.validation_fraction and split.test_fraction == 0 and not parts:
        message = "no row would be held out to evaluate on; set validation_fraction or test_fraction above 0"
        yield Problem(where(("data", "split")), "data.split", message)
    if spec.train.early_stop and not spec.data.split.validation_fraction:
        message = "early_stop looks at validation rows; set data.split.validation_fraction above 0"
        yield Problem(where(("train", "early_stop")), "train.early_stop", message)
    if spec.sweep and not spec.data.split.validation_fraction:
        message = (
            "a sweep compares trials on validation rows; set data.split.validation_fraction above 0"
        )
        yield Problem(where(("sweep",)), "sweep", message)
