"""The fixed binary tree along which a step is summed. Pure; used by each worker.

A node is a range of logical shards (start, stop). It is halved in the middle until a node is one
shard. Floating-point sums depend on their order, so the same bits for every number of workers need
the same additions: those of this tree. A worker adds up the nodes that lie inside its shards. What
remains are `nodes_of` its range, which the workers add up together.

Because nodes are halved in the middle, the range of a worker is a single node if there are 2 or 4
workers, or a power of two that divides the number of shards. Then each worker has one sum to send,
as in any all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Node = tuple[int, int]


def halves(node: Node) -> tuple[Node, Node]:
    """The two children of a node of more than one shard."""
    start, stop = node
    middle = (start + stop) // 2
    return (start, middle), (middle, stop)


def nodes_of(num_shards: int, shards: range) -> list[Node]:
    """The largest nodes inside a contiguous range of shards, from left to right. They cover it."""

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
    """Adds values along the tree as they arrive, from left to right.

    Two halves are added as soon as both are there. At most 1 + log2(num_shards) values are kept at
    a time, like the carries of a binary counter.

    Args:
        num_shards: Leaves of the tree, over all workers.
        add: Returns the sum of a left and a right half; it may reuse the memory of either.

    Attributes:
        parts: Nodes that have no sibling yet, with their values, from left to right.
    """

    def __init__(self, num_shards: int, add: Callable[[T, T], T]) -> None:
        self._add = add
        # All parents are known beforehand, so that `push` in the training step is one look-up.
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
        """Adds the value of the node that starts where the previous one ended."""
        # A new node may complete its parent, which may complete the parent's parent, and so on.
        while self.parts and (self.parts[-1][0], node) in self._parents:
            left, before = self.parts.pop()
            node, value = self._parents[left, node], self._add(before, value)
        self.parts.append((node, value))

    def clear(self) -> None:
        """Removes all values, for the next step."""
        self.parts.clear()
