"""The ledger of rows: was each used exactly once per epoch, in the order of the seed? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc import order


def violations(
    history: Sequence[dict[str, Any]], seed: int, num_rows: int, batch_size: int
) -> list[str]:
    """Finds steps that are missing or have used wrong rows; empty if there are none.

    Args:
        history: Surviving records of the run, of `events.surviving`.
        seed: `seed` of the spec, from which the rows of each step follow.
        num_rows: Training rows of the data set.
        batch_size: Rows of a full step, over all workers.
    """
    steps = [record for record in history if record["kind"] == "step"]
    found = []
    numbers = [record["step"] for record in steps]
    if numbers != list(range(1, len(numbers) + 1)):
        first = next(number for number, step in enumerate(numbers, start=1) if number != step)
        found.append(f"step {first} is missing or out of order")
    per_epoch = order.num_steps(num_rows, batch_size)
    for record in steps:
        epoch, step = divmod(record["step"] - 1, per_epoch)
        ids = order.batch_rows(seed, epoch, step, num_rows, batch_size)
        # The steps of an epoch are disjoint parts of a permutation. So if each step has its own
        # rows, each row of the epoch is used exactly once.
        if (record["rows"], record["row_fingerprint"]) != (len(ids), str(order.fingerprint(ids))):
            found.append(
                f"step {record['step']} has used {record['rows']} rows that are not its own"
            )
    return found
