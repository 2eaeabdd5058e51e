"""The ledger of rows: whether the history that survives has used each row exactly once an epoch, in the order of the
seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc import order


def violations(
    history: Sequence[dict[str, Any]], seed: int, num_rows: int, batch_size: int
) -> list[str]:
    """What is wrong with a history; empty where nothing is.

    Args:
        history: Records of `events.surviving`.
        seed: Of the run.
        num_rows: Training rows.
        batch_size: Rows of a full step.
    """
    steps = [record for record in history if record["kind"] == "step"]
    found = []
    numbers = [record["step"] for record in steps]
    if numbers != list(range(1, len(numbers) + 1)):
        first = next(number for number, step in enumerate(numbers, start=1) if number != step)
        found.append(f"step {first} is missing, or not in its place")
    per_epoch = order.num_steps(num_rows, batch_size)
    for record in steps:
        epoch, step = divmod(record["step"] - 1, per_epoch)
        ids = order.batch_rows(seed, epoch, step, num_rows, batch_size)
        # Steps of an epoch are disjoint parts of a permutation: each right step makes the epoch right.
        if (record["rows"], record["row_fingerprint"]) != (len(ids), str(order.fingerprint(ids))):
            found.append(
                f"step {record['step']} has used {record['rows']} rows that are not its own"
            )
    return found
