"""Scores of a network on the validation rows, computed by all workers together."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from raydc import order
from raydc.data.shards import Rows
from raydc.features import Features
from raydc.loop.group import Group, peers
from raydc.loop.step import Step
from raydc.models.scores import Scores

# Fixed, so that each row shares its forward pass with the same rows for every number of workers.
_BLOCK_ROWS = 512


@torch.inference_mode()
def compute_scores(step: Step, rows: Rows, features: Features, group: Group) -> dict[str, Any]:
    """Deals out blocks of rows to the workers and returns the scores over all of them.

    Args:
        step: Holds the network, which is in training mode before and after.
        rows: All validation rows; this worker computes its part of them.
        features: Features of the data set, with the task and the units of the target.
        group: The workers; every rank must call this.

    Returns:
        The scores by name, the same on every rank, None for one that is undefined; and `split`.

    Raises:
        PeerLostError: Another worker is gone or hangs.
    """
    found, world = Scores(features), group.world
    step.network.eval()
    for block in range(world.rank, order.num_steps(len(rows), _BLOCK_ROWS), world.world_size):
        first = block * _BLOCK_ROWS
        ids_B = np.arange(first, min(first + _BLOCK_ROWS, len(rows)), dtype=np.int64)
        x, y_B = (torch.from_numpy(array) for array in rows.gather(ids_B))
        found.update(step.forward(x.to(world.device)), y_B)
    step.network.train()
    with peers(), warnings.catch_warnings():
        # torchmetrics warns in a worker that had no block; the sum over all workers is complete.
        warnings.filterwarnings("ignore", message="The ``compute`` method")
        return {"split": "validation", **found.compute()}
