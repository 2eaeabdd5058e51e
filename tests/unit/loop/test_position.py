"""A position is a few numbers, for a thousand rows and for a thousand million, and costs the same at any step."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
import torch

from raydc import order
from raydc.checkpoint.state import State
from raydc.loop.feed import Feed
from raydc.storage import canonical_json

BATCH = 256
CPU = torch.device("cpu")
METRICS = {
    "accuracy": 0.123456789012345678,
    "f1": 0.123456789012345678,
    "loss": 1e-17,
    "train_loss": None,
}


class VirtualRows:
    """So many rows that none of them can be stored."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def gather(self, ids: order.Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return ids[:, None], ids


def feed_of(num_rows: int) -> Feed:
    return Feed(VirtualRows(num_rows), 3, BATCH, 4, 0, 1, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_rows", [10**3, 10**6, 10**9])
def test_a_position_is_small(num_rows: int) -> None:
    step = 90 * feed_of(num_rows).steps_per_epoch - 1
    state = State(
        step, 1e9 / 3, num_rows - 1, 0.123456789012345678, step, 10, METRICS, "early_stop"
    )
    content = canonical_json(asdict(state))
    assert len(content) < 1024
    assert State(**json.loads(content)) == state


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_resuming_looks_at_no_row_before_it(
    monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    feed = feed_of(10**9)
    permute, looked_at = order.permute, []

    def counted(positions: order.Ids, num_rows: int, seed: int, epoch: int) -> order.Ids:
        looked_at.append(len(positions))
        return permute(positions, num_rows, seed, epoch)

    monkeypatch.setattr(order, "permute", counted)
    start = int(feed.steps_per_epoch * fraction)
    first = next(iter(feed.batches(1, start, feed.steps_per_epoch)))
    assert sum(looked_at) <= 64 * BATCH
    monkeypatch.setattr(order, "permute", permute)
    np.testing.assert_array_equal(first.ids_G, order.batch_rows(3, 1, start, 10**9, BATCH))
