"""What an inspection does with blocks inside tasks of Ray Data or in the driver; see
`raydc.data.inspection`.

Each function resolves references to blocks and hands the tables to pure code.
Results are plain JSON values, as `tasks.run_calls` requires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from raydc.data import column_profile, linear_identity, row_copies, target_power, tasks
from raydc.data.linear_identity import Identity
from raydc.data.target_power import Binning
from raydc.data.tasks import BlockRef


def profile(block: BlockRef, cleaner: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Profiles the columns of a block; `RowProfile.from_json` reads the result.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
        kinds: Kind of each column by its name, the target included.
    """
    return column_profile.profile_block(tasks.fetch(block), tasks.fetch(cleaner), kinds).to_json()


def count_bins(
    block: BlockRef, cleaner: Any, binnings: Mapping[str, Binning], classes: Sequence[str]
) -> dict[str, Any]:
    """Counts the bins of each column in a block, see `target_power.count_block`.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
        binnings: Bins of each input column, by its name.
        classes: Classes that are counted on their own; all others share one count.
    """
    return target_power.count_block(tasks.fetch(block), tasks.fetch(cleaner), binnings, classes)


def digest(block: BlockRef, cleaner: Any) -> Iterable[pa.Table]:
    """Yields the digests of the rows of a block, see `row_copies.digest_block`."""
    yield row_copies.digest_block(tasks.fetch(block), tasks.fetch(cleaner))


def find_copies(digests: Sequence[BlockRef], part: int, num_parts: int) -> dict[str, Any]:
    """Finds rows with equal inputs, see `row_copies.find_copies`.

    Args:
        digests: References to the digests of all blocks.
        part: Handles the digests that are `part` modulo `num_parts`.
        num_parts: Number of parts, each of which one task handles.
    """
    # One table at a time: together they may not fit into the memory of a task.
    return row_copies.find_copies(map(tasks.fetch, digests), part, num_parts).to_json()


def read_numbers(
    block: BlockRef, cleaner: Any, names: Sequence[str], stride: int
) -> dict[str, list[float]]:
    """Some whole rows of a block, see `linear_identity.read_numbers`.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
        names: Numeric input columns; the target is read as well.
        stride: About one row of this many is taken; 1 takes all.
    """
    return linear_identity.read_numbers(tasks.fetch(block), tasks.fetch(cleaner), names, stride)


def count_identity(block: BlockRef, cleaner: Any, identity: Identity) -> list[int]:
    """Counts the rows of a block in which a sum is the target, and all of them.

    Args:
        block: Reference to the raw rows of one block.
        cleaner: Reference to the `Cleaner`.
        identity: Weighted sum of columns to compare with the target.
    """
    return list(linear_identity.count_rows(tasks.fetch(block), tasks.fetch(cleaner), identity))
