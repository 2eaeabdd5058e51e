"""The tree over the logical shards."""

from __future__ import annotations

import itertools

import pytest

from raydc import order
from raydc.loop.summation_tree import Fold, Node, halves, nodes_of


def oracle(start: int, stop: int) -> str:
    """The sum of the shards [start, stop), written as text."""
    if stop - start == 1:
        return str(start)
    middle = (start + stop) // 2
    return f"({oracle(start, middle)}+{oracle(middle, stop)})"


def add(left: str, right: str) -> str:
    return f"({left}+{right})"


def nodes_of_ranks(num_shards: int, world_size: int) -> list[list[Node]]:
    ranges = [order.shards_of_rank(num_shards, rank, world_size) for rank in range(world_size)]
    return [nodes_of(num_shards, shards) for shards in ranges]


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 5, 6, 7, 8, 13, 16])
def test_fold_of_any_number_of_workers_does_the_same_additions(num_shards: int) -> None:
    for world_size in range(1, num_shards + 1):
        between: Fold[str] = Fold(num_shards, add)
        for rank, nodes in enumerate(nodes_of_ranks(num_shards, world_size)):
            inside: Fold[str] = Fold(num_shards, add)
            for shard in order.shards_of_rank(num_shards, rank, world_size):
                inside.push((shard, shard + 1), str(shard))
            assert [node for node, _ in inside.parts] == nodes
            for node, value in inside.parts:
                between.push(node, value)
        assert between.parts == [((0, num_shards), oracle(0, num_shards))]


@pytest.mark.parametrize("num_shards", [1, 2, 5, 8, 64, 100])
def test_fold_keeps_at_most_logarithmically_many_values(num_shards: int) -> None:
    fold: Fold[int] = Fold(num_shards, lambda left, right: left + right)
    most = 0
    for shard in range(num_shards):
        fold.push((shard, shard + 1), 1)
        most = max(most, len(fold.parts))
    assert fold.parts == [((0, num_shards), num_shards)]
    assert most <= 1 + (num_shards - 1).bit_length()
    fold.clear()
    assert fold.parts == []


@pytest.mark.parametrize("num_shards", range(1, 20))
def test_nodes_of_a_range_cover_it_once_with_the_largest_nodes(num_shards: int) -> None:
    for start, stop in itertools.combinations(range(num_shards + 1), 2):
        nodes = nodes_of(num_shards, range(start, stop))
        assert [shard for node in nodes for shard in range(*node)] == list(range(start, stop))
        # They are the largest ones if no two neighbours are the halves of another node.
        parents = {
            halves((a, b)) for a, b in itertools.combinations(range(num_shards + 1), 2) if b - a > 1
        }
        assert not any(
            (left, right) in parents and _is_node(left, right, num_shards)
            for left, right in itertools.pairwise(nodes)
        )


def _is_node(left: Node, right: Node, num_shards: int) -> bool:
    return nodes_of(num_shards, range(left[0], right[1])) == [(left[0], right[1])]


def test_nodes_of_for_powers_of_two_workers_is_one_node_each() -> None:
    for num_shards in range(1, 65):
        for world_size in (2, 4, 8, 16, 32, 64):
            if world_size > num_shards or (world_size > 4 and num_shards % world_size):
                continue
            assert all(len(nodes) == 1 for nodes in nodes_of_ranks(num_shards, world_size))
