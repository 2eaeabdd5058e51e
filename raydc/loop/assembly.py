"""Builds from a spec and a data set what a worker trains with. Runs in each worker."""

from __future__ import annotations

from dataclasses import dataclass

from raydc import models
from raydc.data.prepared import Prepared
from raydc.data.shards import Rows, open_rows
from raydc.loop.augment import make_augmenter
from raydc.loop.feed import Feed
from raydc.loop.group import Group
from raydc.loop.length import Length
from raydc.loop.step import Step
from raydc.models.losses import make_loss
from raydc.models.network_parts import Network
from raydc.spec import ResolvedSpec


@dataclass(frozen=True)
class Assembly:
    """What a worker trains with.

    Attributes:
        validation_rows: All validation rows.
        feed: Batches of training rows.
        length: Length of the run.
        network: The network, on its device and in training mode.
        step: Computes optimiser steps on the network.
    """

    validation_rows: Rows
    feed: Feed
    length: Length
    network: Network
    step: Step


def assemble(spec: ResolvedSpec, data: Prepared, group: Group) -> Assembly:
    """Builds feed, network and step of a worker.

    Args:
        spec: The resolved spec; `model`, `train`, `data.augment` and `seed` are used.
        data: Prepared data set with the training and validation rows.
        group: The process group; its world says which shards this worker computes.

    Raises:
        SpecError: The rows cannot be augmented, or their classes not weighted, as the spec says.
    """
    train, signature = spec.train, data.features.signature
    augmenter = make_augmenter(spec.data.augment, signature, spec.seed)
    rows = open_rows(data.folder, "train")
    feed = Feed(
        rows, spec.seed, train.global_batch_size, train.logical_shards, group.world, augmenter
    )
    length = Length(train.total_steps(feed.steps_per_epoch), feed.steps_per_epoch)
    # Built on the CPU and moved, so that the first weights do not depend on the device.
    network = models.build(spec.model, signature, spec.seed).to(group.world.device).train()
    loss_sum = make_loss(train.loss, signature, lambda: rows.targets, group.world.device)
    step = Step(network, loss_sum, train, spec.seed, length, group)
    return Assembly(open_rows(data.folder, "validation"), feed, length, network, step)
