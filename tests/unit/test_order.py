"""The order of rows: a permutation of every epoch, the same for any number of workers."""

from __future__ import annotations

import numpy as np
import pytest

from raydc import order


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 7, 8, 100, 255, 256, 257, 1797, 60_000])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_permute_is_a_permutation_of_every_epoch(num_rows: int, epoch: int) -> None:
    ids = order.permute(np.arange(num_rows), num_rows, seed=3, epoch=epoch)
    assert np.array_equal(np.sort(ids), np.arange(num_rows))


@pytest.mark.parametrize(("num_rows", "batch"), [(10, 3), (256, 256), (1000, 64), (7, 100)])
def test_batch_rows_of_all_steps_are_the_permutation(num_rows: int, batch: int) -> None:
    steps = [
        order.batch_rows(5, 2, step, num_rows, batch)
        for step in range(order.num_steps(num_rows, batch))
    ]
    assert np.array_equal(np.concatenate(steps), order.permute(np.arange(num_rows), num_rows, 5, 2))
    assert [len(step) for step in steps[:-1]] == [batch] * (len(steps) - 1)
    assert 0 < len(steps[-1]) <= batch


def test_permute_differs_by_seed_and_epoch() -> None:
    orders = {
        tuple(order.permute(np.arange(50), 50, seed, epoch))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


def test_batch_rows_keep_their_written_down_values() -> None:
    # A change of these numbers changes the result of every run: it needs a new major version.
    assert order.batch_rows(0, 0, 0, 1000, 6).tolist() == [564, 322, 226, 558, 528, 864]
    assert order.batch_rows(7, 3, 2, 1_000_000_007, 3).tolist() == [71881770, 516777898, 369121253]


def test_batch_rows_of_a_billion_rows_need_no_memory() -> None:
    last = order.num_steps(10**9, 256) - 1
    ids = order.batch_rows(1, 5, last, 10**9, 256)
    assert len(ids) == 10**9 - last * 256
    assert ((ids >= 0) & (ids < 10**9)).all()


def test_permute_leaves_positions_and_ids_uncorrelated() -> None:
    ids = order.permute(np.arange(50_000), 50_000, 1, 1)
    assert abs(np.corrcoef(ids, np.arange(50_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("num_rows", [0, 1, 5, 64, 100, 257])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_logical_shards_cover_a_step_once(num_rows: int, num_shards: int) -> None:
    slices = order.logical_shards(num_rows, num_shards)
    covered = [row for part in slices for row in range(part.start, part.stop)]
    assert covered == list(range(num_rows))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5, 8])
def test_shards_of_rank_cover_all_shards_once(num_shards: int) -> None:
    for world_size in range(1, num_shards + 1):
        shares = [order.shards_of_rank(num_shards, rank, world_size) for rank in range(world_size)]
        assert [shard for share in shares for shard in share] == list(range(num_shards))
        assert all(len(share) for share in shares)


def test_fingerprint_depends_on_the_set_and_not_its_order() -> None:
    ids = np.arange(1000)
    whole = order.fingerprint(ids)
    parts = sum(order.fingerprint(part) for part in np.array_split(ids[::-1], 7)) % 2**64
    assert parts == whole
    assert order.fingerprint(ids[1:]) != whole
    assert order.fingerprint(np.append(ids[1:], 1)) != whole


@pytest.mark.parametrize("num_shards", [1, 4, 5])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 24])
def test_num_ranks_with_rows_counts_ranks_whose_slices_have_rows(
    num_rows: int, num_shards: int
) -> None:
    slices = order.logical_shards(num_rows, num_shards)
    for world_size in range(1, num_shards + 1):
        owned = [order.shards_of_rank(num_shards, rank, world_size) for rank in range(world_size)]
        expected = sum(slices[own[-1]].stop > slices[own[0]].start for own in owned)
        assert order.num_ranks_with_rows(num_rows, num_shards, world_size) == expected


def test_fingerprints_of_several_sets_are_those_of_each() -> None:
    parts = [np.arange(5), np.array([7]), np.arange(10**6, 10**6 + 300), np.arange(5)]
    found = order.fingerprints(parts)
    assert found == [order.fingerprint(part[::-1]) for part in parts]
    assert found[0] == found[3] != found[1]
    assert (found[1] + found[2]) % 2**64 == order.fingerprint(np.concatenate(parts[1:3]))
