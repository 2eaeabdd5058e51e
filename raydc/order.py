"""The order of rows, as a function.

`batch_rows(...)` says which rows make up a step from four integers; nothing is stored, so resuming at any
step costs the same. The permutation is an unbalanced Feistel network over the smallest power of two that
holds the data set, walked until it falls inside (cycle walking, Black and Rogaway, CT-RSA 2002).

Nothing here knows of workers: `logical_shards` cuts a step into V pieces that belong to the spec, and
`shards_of_rank` is the only place where a world size appears.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
_U64 = npt.NDArray[np.uint64]

_NUM_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(value: _U64) -> _U64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit words."""
    value = value ^ (value >> np.uint64(30))
    value = value * np.uint64(0xBF58476D1CE4E5B9)
    value = value ^ (value >> np.uint64(27))
    value = value * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> _U64:
    counters = np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    stream = mix(np.array([(seed * _GOLDEN + 1) & _MASK], dtype=np.uint64))
    stream = mix(stream ^ np.uint64((epoch * 0xD1342543DE82EF95 + 1) & _MASK))
    return mix(stream + counters)


def permute(positions: Ids, num_rows: int, seed: int, epoch: int) -> Ids:
    """Maps positions of an epoch to row ids, without repetition.

    Args:
        positions: int64 [B], each in [0, num_rows).
        num_rows: Size of the data set.
        seed: Seed of the run, any integer.
        epoch: Epoch, from 0.

    Returns:
        int64 [B], each in [0, num_rows). Over all positions it is a permutation.
    """
    num_bits = max(2, (num_rows - 1).bit_length())
    left_bits, right_bits = num_bits // 2, num_bits - num_bits // 2
    keys = _round_keys(seed, epoch)
    ids = positions.astype(np.uint64)
    pending = np.arange(len(ids))
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
    """64 random bits for each row, anew in each epoch.

    Args:
        ids: int64 [B], row ids.
        seed: Any integer.
        epoch: Epoch, from 0.

    Returns:
        uint64 [B]; equal for equal (seed, epoch, row id).
    """
    first, second = _round_keys(seed, epoch)[:2]
    return mix(mix(ids.astype(np.uint64) + first) ^ second)


def num_steps(num_rows: int, global_batch_size: int) -> int:
    """Steps of an epoch; the last one may be smaller."""
    return -(-num_rows // global_batch_size)


def batch_rows(seed: int, epoch: int, step: int, num_rows: int, global_batch_size: int) -> Ids:
    """Row ids of one step of an epoch.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        step: Step inside the epoch, in [0, num_steps).
        num_rows: Size of the data set.
        global_batch_size: Rows of a full step.

    Returns:
        int64 [B] with B = global_batch_size, or what is left in the last step.
    """
    start = step * global_batch_size
    stop = min(start + global_batch_size, num_rows)
    return permute(np.arange(start, stop, dtype=np.int64), num_rows, seed, epoch)


def logical_shards(num_rows: int, num_shards: int) -> list[slice]:
    """Cuts a step of `num_rows` rows into `num_shards` contiguous slices whose sizes differ by at most one."""
    bounds = [shard * num_rows // num_shards for shard in range(num_shards + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def shards_of_rank(num_shards: int, rank: int, world_size: int) -> range:
    """The contiguous logical shards that a rank computes."""
    return range(rank * num_shards // world_size, (rank + 1) * num_shards // world_size)


def num_shares(num_rows: int, num_shards: int, world_size: int) -> int:
    """How many of the ranks have rows in a step: with fewer rows than logical shards, not all of them have."""
    if num_rows >= num_shards:
        return world_size
    firsts = {
        shards_of_rank(num_shards, rank, world_size).start * num_rows // num_shards
        for rank in range(world_size)
    }
    return len(firsts | {num_rows}) - 1


def fingerprint(ids: Ids) -> int:
    """A 64-bit sum that is the same for the same set of ids in any order: the ledger of exactly-once."""
    return int(mix(ids.astype(np.uint64) + np.uint64(_GOLDEN)).sum(dtype=np.uint64))
