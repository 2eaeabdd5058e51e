"""Builds from a spec and a data set what a worker trains with. Runs in each worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from raydc import models
from raydc.data.prepared import Prepared
from raydc.data.shards import Rows, open_rows
from raydc.loop.augment import make_augmenter
from raydc.loop.body_outputs import BodyOutputs, fill, find_body
from raydc.loop.feed import Feed
from raydc.loop.group import Group
from raydc.loop.length import Length
from raydc.loop.mixing import make_mixer
from raydc.loop.row_order import make_groups
from raydc.loop.sampler import make_sampler
from raydc.loop.step import Step
from raydc.models.frozen_body import FrozenBody
from raydc.models.losses import divisor_of, make_loss
from raydc.models.network_parts import Network
from raydc.spec import ResolvedSpec
from raydc.tracking.journal import Journal


@dataclass(frozen=True)
class Assembly:
    """What a worker trains with.

    Attributes:
        validation_rows: All rows of the validation split, or outputs of a frozen body for them.
        feed: Batches of training rows.
        length: Steps and epochs of the whole run.
        network: Network to train, on its device and in training mode.
        step: Computes optimiser steps on the network.
        bodies: Outputs of a frozen body for training and validation rows; empty without one.
        without_body: Why the frozen layers are computed in each epoch; None if they are not, or if
            there are none.
    """

    validation_rows: Rows | BodyOutputs
    feed: Feed
    length: Length
    network: Network
    step: Step
    bodies: list[BodyOutputs]
    without_body: str | None


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
    mixer = make_mixer(spec.data.augment, signature, spec.seed)
    rows = open_rows(data.folder, "train", is_shuffled=True)
    validation_rows = open_rows(data.folder, "validation")
    # Built on the CPU and moved, so that the first weights do not depend on the device.
    network = models.build(spec.model, signature, spec.seed).to(group.world.device).train()
    body = None
    if spec.model.freeze:
        changes = augmenter is not None or mixer is not None
        body = find_body(spec, network, rows, changes)
    bodies = []
    if isinstance(body, FrozenBody):
        splits = {"train": rows, "validation": validation_rows}
        bodies = [
            BodyOutputs(rows, name, body, group.world.device) for name, rows in splits.items()
        ]
    feed = Feed(
        bodies[0] if bodies else rows,
        spec.seed,
        train.global_batch_size,
        train.logical_shards,
        group.world,
        augmenter,
        make_sampler(train.sampling, spec.seed, len(signature.classes), lambda: rows.targets),
        make_groups(train, signature, lambda: rows.lengths),
    )
    length = Length(train.total_steps(feed.steps_per_epoch), feed.steps_per_epoch)
    loss_sum = make_loss(train.loss, signature, lambda: rows.targets, group.world.device)
    found = body if isinstance(body, FrozenBody) else None
    divisor = divisor_of(signature.task)
    step = Step(network, loss_sum, train, spec.seed, length, group, mixer, found, divisor)
    validation = bodies[1] if bodies else validation_rows
    reason = body if isinstance(body, str) else None
    return Assembly(validation, feed, length, network, step, bodies, reason)


def read_and_keep(
    parts: Assembly, spec: ResolvedSpec, data: Prepared, group: Group, journal: Journal, step: int
) -> Iterator[None]:
    """Does what takes long before the first step, and records it.

    Outputs of a frozen body are computed, and rows are read that do not fit into memory.

    Yields after each part, equally often on every rank.

    Args:
        parts: What a worker trains with, with the weights that it goes on with.
        spec: Resolved spec of the run.
        data: Prepared data set, in whose folder outputs are stored.
        group: Process group; every rank must call this.
        journal: Takes an event; without frozen layers, or such rows, there is none.
        step: Completed steps of the run.

    Raises:
        PeerLostError: Another worker is gone or hangs.
    """
    if (note := parts.step.passes_note) is not None:
        journal.record_event("passes", text=note)
    if (note := parts.feed.reading_note) is not None:
        journal.record_event("reading", text=note)
    # The memory of workers differs, but all have to take part in what is agreed on in between.
    num_collecting = torch.tensor([float(parts.feed.kept_rows > 0)], device=group.world.device)
    group.sum_(num_collecting)
    if num_collecting.item():
        yield from parts.feed.read_first(step, parts.length.total_steps)
    if parts.bodies:
        yield from fill(parts.bodies, spec, data, group, partial(journal.record_event, "frozen"))
    elif parts.without_body is not None:
        text = f"frozen layers are computed in each epoch: {parts.without_body}"
        journal.record_event("frozen", text=text)
