"""A spec whose defaults are filled in: no None where a value is certain.

`resolve` makes one from a `Spec`; every stage below the command line takes a `ResolvedSpec`. Each
class repeats only the fields that are certain now, so a default has one home: the section itself.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raydc.spec import decoder_folder, encoder_folder
from raydc.spec.base import Count, Fraction
from raydc.spec.cleaning import DEFAULT_TEST_FRACTION, Split
from raydc.spec.data import Data, Sources
from raydc.spec.language import LANGUAGE
from raydc.spec.metric import LOWER_IS_BETTER, SCORES, Metric
from raydc.spec.sections import HuggingFace, Spec
from raydc.spec.train import DEFAULT_EPOCHS, DEFAULT_EVERY_SECONDS, Checkpoint, Train


class ResolvedSplit(Split):
    """Fractions of the split, both given."""

    test_fraction: Fraction = Field(description="Fraction of the rows that are held out.")


class ResolvedData(Data):
    """The section `data`, with both fractions of its split."""

    split: ResolvedSplit


class ResolvedTrain(Train):
    """The section `train`, with a length, logical shards and a metric."""

    logical_shards: Count
    metric: Metric
    mode: Literal["max", "min"]

    @property
    def most_shard_rows(self) -> int:
        """Rows of the largest logical shard, which is one pass unless `micro_batch_size` is set."""
        # Not exactly, the rows of a worker are one shard, and a single worker may be left.
        return -(-self.global_batch_size // (self.logical_shards if self.exact else 1))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run.

        Args:
            steps_per_epoch: Steps in which every training row is used once.
        """
        # Resolving leaves exactly one of the two: `Train` refuses both, and neither means epochs.
        return self.max_steps or (self.epochs or DEFAULT_EPOCHS) * steps_per_epoch


class ResolvedCheckpoint(Checkpoint):
    """The section `checkpoint`, with an interval in steps or in seconds."""

    @property
    def interval_s(self) -> float | Literal["auto"]:
        """Seconds between two checkpoints; ignored if `every_steps` is set."""
        return self.every_seconds or DEFAULT_EVERY_SECONDS


class ResolvedSpec(Spec):
    """A spec with absolute paths and with the defaults that depend on other fields."""

    data: ResolvedData
    train: ResolvedTrain
    checkpoint: ResolvedCheckpoint


def fill_in(spec: Spec, value: dict[str, Any]) -> None:
    """Sets the defaults that depend on other fields of a spec.

    Args:
        spec: The valid spec, as the user gave it.
        value: The spec as plain values, changed in place. Fields that are set stay as they are.

    Raises:
        SpecError: The folder of a pretrained model cannot be used.
    """
    if isinstance(spec.model, HuggingFace):
        folder = decoder_folder if spec.data.task == LANGUAGE else encoder_folder
        folder.fill_in(value)
    train = value["train"]
    if spec.train.epochs is None and spec.train.max_steps is None:
        train["epochs"] = DEFAULT_EPOCHS
    # Zero workers train in the calling process, which computes at least one shard.
    train.setdefault("logical_shards", max(1, spec.scaling.max_workers))
    train.setdefault("metric", SCORES[spec.data.task][0])
    train.setdefault("mode", "min" if train["metric"] in LOWER_IS_BETTER else "max")
    # A source with a test part of its own has nothing else held out.
    held_out = 0.0 if isinstance(spec.data.source, Sources) else DEFAULT_TEST_FRACTION
    value["data"]["split"].setdefault("test_fraction", held_out)
    if spec.checkpoint.every_steps is None and spec.checkpoint.every_seconds is None:
        value["checkpoint"]["every_seconds"] = DEFAULT_EVERY_SECONDS
