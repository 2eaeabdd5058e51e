"""The ledger of rows: was each used as often as it must be, in the order of the seed? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydc import order
from raydc.loop.row_order import LengthGroups, RowOrder
from raydc.loop.sampler import Sampler


def violations(
    history: Sequence[dict[str, Any]],
    seed: int,
    num_rows: int,
    batch_size: int,
    sampler: Sampler | None = None,
    groups: LengthGroups | None = None,
) -> list[str]:
    """Finds steps that are missing or have used wrong rows; empty if there are none.

    Args:
        history: Surviving records of the run, of `events.surviving`.
        seed: `seed` of the spec, from which the rows of each step follow.
        num_rows: Training rows of the data set.
        batch_size: Rows of a full step, over all workers.
        sampler: Says how often each row must occur in an epoch; None for once.
        groups: Says which rows share a step by their lengths; None for any.
    """
    steps = [record for record in history if record["kind"] == "step"]
    found = []
    numbers = [record["step"] for record in steps]
    if numbers != list(range(1, len(numbers) + 1)):
        first = next(number for number, step in enumerate(numbers, start=1) if number != step)
        found.append(f"step {first} is missing or out of order")
    rows_of = RowOrder(seed, num_rows, batch_size, sampler, groups)
    per_epoch = order.num_steps(rows_of.rows_per_epoch, batch_size)
    for record in steps:
        epoch, step = divmod(record["step"] - 1, per_epoch)
        ids = rows_of.rows(epoch, step)
        # The steps of an epoch are disjoint parts of a permutation. So if each step has its own
        # rows, each row of the epoch is used exactly as often as it is drawn.
        if (record["rows"], record["row_fingerprint"]) != (len(ids), str(order.fingerprint(ids))):
            found.append(
                f"step {record['step']} has used {record['rows']} rows that are not its own"
            )
    if sampler is not None:
        found += _miscounted(steps, per_epoch, sampler)
    return found


def _miscounted(steps: Sequence[dict[str, Any]], per_epoch: int, sampler: Sampler) -> list[str]:
    """Whole epochs in which some row did not occur as often as it must, counted row by row."""
    found = []
    for epoch in range(len(steps) // per_epoch):
        counts = sampler.occurrences(epoch)
        wanted = order.fingerprint(np.repeat(np.arange(len(counts)), counts))
        records = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        used = sum(int(record["row_fingerprint"]) for record in records) % 2**64
        if used != wanted:
            found.append(f"epoch {epoch + 1} has not used each row as often as it must")
    return found
