"""The order of rows, as a pure function. Used in workers and in checks of them.

`batch_rows` computes the rows of a step from a few integers. Nothing is stored, so resuming at any
step costs the same. The permutation is an unbalanced Feistel network over the smallest power of two
that holds the data set, walked until it falls inside (cycle walking, Black and Rogaway, CT-RSA
2002).

The order does not depend on workers: `logical_shards` cuts a step into V pieces that belong to the
spec. A world size appears only in `shards_of_rank` and `num_ranks_with_rows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
_U64 = npt.NDArray[np.uint64]

# Four rounds make a good permutation of large domains (Luby and Rackoff, 1988); two more help the
# small ones. A change of this or of any other constant here changes the result of every run.
_NUM_ROUNDS = 6
# 2**64 divided by the golden ratio: the increment of SplitMix64.
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(value: _U64) -> _U64:
    """Scrambles 64-bit words with the finaliser of SplitMix64, a bijection.

    The method is that of Steele, Lea and Flood, OOPSLA 2014.
    """
    value = value ^ (value >> np.uint64(30))
    value = value * np.uint64(0xBF58476D1CE4E5B9)
    value = value ^ (value >> np.uint64(27))
    value = value * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> _U64:
    counters = np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    # Python's integers are masked, because numpy refuses negative seeds and large products.
    stream = mix(np.array([(seed * _GOLDEN + 1) & _MASK], dtype=np.uint64))
    stream = mix(stream ^ np.uint64((epoch * 0xD1342543DE82EF95 + 1) & _MASK))
    return mix(stream + counters)


def permute(positions: Ids, num_rows: int, seed: int, epoch: int) -> Ids:
    """Maps positions of an epoch to row ids, without repetition.

    Args:
        positions: int64 [B], each in [0, num_rows).
        num_rows: Rows of the data set, over which the order is a permutation.
        seed: Seed of the run, any integer.
        epoch: Epoch, from 0; each one has a different order.

    Returns:
        int64 [B], each in [0, num_rows). Over all positions it is a permutation.
    """
    # Two bits at least, so that each half has one.
    num_bits = max(2, (num_rows - 1).bit_length())
    left_bits, right_bits = num_bits // 2, num_bits - num_bits // 2
    keys = _round_keys(seed, epoch)
    ids = positions.astype(np.uint64)
    pending = np.arange(len(ids))
    # The domain is less than twice as large as the data set (or four for tiny ones), so that an id
    # needs fewer than two walks on average.
    while len(pending):
        ids[pending] = _feistel(ids[pending], left_bits, right_bits, keys)
        pending = pending[ids[pending] >= num_rows]
    return ids.astype(np.int64)


def _feistel(ids: _U64, left_bits: int, right_bits: int, keys: _U64) -> _U64:
    left, right = ids >> np.uint64(right_bits), ids & np.uint64((1 << right_bits) - 1)
    for key in keys:
        # The halves may differ by one bit; they change places every round, and so do their widths.
        left, right = right, left ^ (mix(right + key) >> np.uint64(64 - left_bits))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def draw(ids: Ids, seed: int, epoch: int) -> _U64:
    """Draws 64 random bits for each row, different in each epoch.

    Args:
        ids: int64 [B], row ids.
        seed: Any integer, such as the seed of the run mixed with a constant per use.
        epoch: Epoch, from 0; each one draws different bits.

    Returns:
        uint64 [B]; equal for equal (seed, epoch, row id).
    """
    # The keys of the permutation may be used again: row ids are scrambled in another way.
    first, second = _round_keys(seed, epoch)[:2]
    return mix(mix(ids.astype(np.uint64) + first) ^ second)


def num_steps(num_rows: int, global_batch_size: int) -> int:
    """Number of steps of an epoch; the last may have fewer rows."""
    return -(-num_rows // global_batch_size)


def batch_rows(seed: int, epoch: int, step: int, num_rows: int, global_batch_size: int) -> Ids:
    """Row ids of one step of an epoch.

    Args:
        seed: Seed of the run, any integer.
        epoch: Epoch, from 0.
        step: Step inside the epoch, in [0, num_steps).
        num_rows: Rows of the data set, over which the order is a permutation.
        global_batch_size: Rows of a full step, over all workers; the last step may have fewer.

    Returns:
        int64 [B] with B = global_batch_size, or the rows left for the last step.
    """
    start = step * global_batch_size
    stop = min(start + global_batch_size, num_rows)
    return permute(np.arange(start, stop, dtype=np.int64), num_rows, seed, epoch)


def logical_shards(num_rows: int, num_shards: int) -> list[slice]:
    """Cuts a step into contiguous slices whose sizes differ by at most one.

    Args:
        num_rows: Rows of the step, over all workers.
        num_shards: Logical shards of a step, V.

    Returns:
        V slices of [0, num_rows); some are empty if there are fewer rows than shards.
    """
    bounds = [shard * num_rows // num_shards for shard in range(num_shards + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def passes(num_rows: int, most_rows: int | None) -> list[slice]:
    """Cuts the rows of a logical shard into passes whose sizes differ by at most one.

    Args:
        num_rows: Rows of the shard, at least one.
        most_rows: Most rows of a pass; None computes all of them at once.
    """
    return logical_shards(num_rows, -(-num_rows // (most_rows or num_rows)))


def shards_of_rank(num_shards: int, rank: int, world_size: int) -> range:
    """The contiguous logical shards that a rank computes.

    Args:
        num_shards: Logical shards of a step, V.
        rank: Rank of the worker, in [0, world_size).
        world_size: Number of workers, at most V.
    """
    return range(rank * num_shards // world_size, (rank + 1) * num_shards // world_size)


def num_ranks_with_rows(num_rows: int, num_shards: int, world_size: int) -> int:
    """Number of ranks that have rows in a step.

    Args:
        num_rows: Rows of the step, over all workers.
        num_shards: Logical shards of a step, V.
        world_size: Number of workers, at most V.

    Returns:
        `world_size`, or fewer if the step has fewer rows than logical shards.
    """
    if num_rows >= num_shards:
        return world_size
    # Ranks without rows start where the next rank starts.
    firsts = {
        shards_of_rank(num_shards, rank, world_size).start * num_rows // num_shards
        for rank in range(world_size)
    }
    return len(firsts | {num_rows}) - 1


def fingerprints(parts: Sequence[Ids]) -> list[int]:
    """Fingerprints of some sets of ids, in 64 bits each, whatever the order of a set.

    Fingerprints of disjoint sets add up modulo 2**64, by which `raydc.chaos.ledger` proves that
    every row was used once.

    Args:
        parts: Sets of at least one id.
    """
    starts = np.cumsum([0, *map(len, parts[:-1])])
    # The sums of scrambled ids wrap around; uint64 arithmetic does that without a warning.
    scrambled = mix(np.concatenate(parts).astype(np.uint64) + np.uint64(_GOLDEN))
    return [int(total) for total in np.add.reduceat(scrambled, starts)]


def fingerprint(ids: Ids) -> int:
    """Fingerprint of a set of at least one id, see `fingerprints`."""
    return fingerprints([ids])[0]
