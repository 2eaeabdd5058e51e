"""The one tree along which a step is summed, whoever holds its logical shards.

A node is a run of shards (start, stop); it is halved in the middle until a node is one shard. Floating-point sums
depend on their order, so the same bits for every number of workers need the same additions: those of this tree. A
worker adds what lies whole inside its shards; what is left are `nodes_of` its range, and those the workers add.

Halving in the middle makes the range of a worker one node wherever the number of workers is 2 or 4, or a power of two
that divides the number of shards: then each worker has one sum to give away, as in any all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Node = tuple[int, int]


def halves(node: Node) -> tuple[Node, Node]:
    """The two nodes that a node of more than one shard is the sum of."""
    start, stop = node
    middle = (start + stop) // 2
    return (start, middle), (middle, stop)


def nodes_of(num_shards: int, shards: range) -> list[Node]:
    """The largest nodes that lie inside a contiguous range of shards, from left to right; they cover it."""

    def inside(node: Node) -> list[Node]:
        start, stop = node
        if stop <= shards.start or shards.stop <= start:
            return []
        if shards.start <= start and stop <= shards.stop:
            return [node]
        left, right = halves(node)
        return inside(left) + inside(right)

    return inside((0, num_shards))


class Fold(Generic[T]):
    """Adds values along the tree as they come, from left to right, as soon as both halves of a node are there.

    At most 1 + log2(num_shards) values are kept at a time, as a binary counter keeps its carries.

    Args:
        num_shards: Of the whole tree.
        add: The sum of a left and a right half; it may reuse the memory of either.
    """

    def __init__(self, num_shards: int, add: Callable[[T, T], T]) -> None:
        self._add = add
        self._parents: dict[tuple[Node, Node], Node] = {}
        self.parts: list[tuple[Node, T]] = []
        todo = [(0, num_shards)]
        while todo:
            node = todo.pop()
            if node[1] - node[0] > 1:
                pair = halves(node)
                self._parents[pair] = node
                todo.extend(pair)

    def push(self, node: Node, value: T) -> None:
        """Takes the value of the node that begins where the one before ended."""
        while self.parts and (self.parts[-1][0], node) in self._parents:
            left, before = self.parts.pop()
            node, value = self._parents[left, node], self._add(before, value)
        self.parts.append((node, value))

    def clear(self) -> None:
        """Forgets all values: the next step begins."""
        self.parts.clear()
