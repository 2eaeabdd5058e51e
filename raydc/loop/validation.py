"""The scores of a network on the validation rows, computed by all workers together."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from raydc import order
from raydc.data.shards import Rows
from raydc.features import Features
from raydc.loop.group import Group, peers
from raydc.loop.step import Step
from raydc.models.scores import Scores

_BLOCK_ROWS = 512


@torch.inference_mode()
def scores(
    step: Step, rows: Rows, features: Features, group: Group, device: torch.device
) -> dict[str, float | None]:
    """Blocks of rows that do not depend on the workers are dealt out to them; all get the scores of all.

    Args:
        step: Of the network, which is in training mode again afterwards.
        rows: All validation rows.
        features: Of the data set.
        group: The workers; every rank must call this.
        device: Of the network.

    Raises:
        PeerLostError: Another worker is gone or hangs.
    """
    found = Scores(features)
    step.network.eval()
    for block in range(group.rank, order.num_steps(len(rows), _BLOCK_ROWS), group.world_size):
        first = block * _BLOCK_ROWS
        ids_B = np.arange(first, min(first + _BLOCK_ROWS, len(rows)), dtype=np.int64)
        x, y_B = (torch.from_numpy(array) for array in rows.gather(ids_B))
        found.update(step.forward(x.to(device)), y_B)
    step.network.train()
    with peers(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The ``compute`` method"
        )  # A worker without a block.
        return found.compute()
