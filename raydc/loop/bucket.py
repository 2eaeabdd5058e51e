"""A bucket: some parameters whose gradients are summed and sent together. Runs in each worker.

Used by `raydc.loop.reduction`, which explains how a bucket travels between the workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raydc.loop.group import Group
from raydc.loop.summation_tree import Fold, Node

# Parts of a flat tensor start at addresses that every kernel treats as aligned, like those of a
# tensor that has its own memory.
_ALIGN_BYTES = 64

# Arguments of `Group.exchange`: received, sent, sizes_in, sizes_out.
_Exchange = tuple[Tensor, Tensor, list[int], list[int]]


class Bucket:
    """Sums the gradients of some parameters, first over the shards of a worker, then over workers.

    Args:
        parameters: Parameters whose gradients travel together, all of one dtype.
        num_shards: Logical shards of a step, over all workers.

    Attributes:
        extras: Examples of the other tensors of a shard that this bucket carries.
        fold: Sums over the shards of this worker so far; each a list of gradients and extras.
        num_missing: Parameters whose gradient of the current shard is not computed yet.
    """

    def __init__(self, parameters: list[nn.Parameter], num_shards: int) -> None:
        self.parameters = parameters
        self.extras: list[Tensor] = []
        self.fold: Fold[list[Tensor]] = Fold(num_shards, _add_lists)
        self.num_missing = 0
        self._between: Fold[Tensor] = Fold(num_shards, Tensor.add_)
        # One flat tensor for each node of this worker. The first one takes the sum in the end.
        self._flats: list[Tensor] = []
        self._views: list[list[Tensor]] = []
        self._arrivals: list[tuple[Node, Tensor]] = []
        self._exchanges: list[_Exchange] = []

    def take_gradients(self, shard: int, extras: Sequence[Tensor]) -> None:
        """Moves the gradients of a shard from the parameters into the fold.

        The gradient of a parameter that the shard did not use counts as zero.
        """
        leaf = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        # The next backward pass must create new gradients, not add to these.
        for parameter in self.parameters:
            parameter.grad = None
        self.fold.push((shard, shard + 1), [*leaf, *extras])

    def connect(self, group: Group, nodes: Sequence[Sequence[Node]], exact: bool) -> None:
        """Allocates the memory for what travels between workers.

        Args:
            group: The process group that the sums travel in.
            nodes: For each rank, the nodes of the tree that it holds after its own shards.
            exact: Whether nodes are added along the tree, or in any order.
        """
        parts, rank, world_size = (
            [*self.parameters, *self.extras],
            group.world.rank,
            group.world.world_size,
        )
        # Sizes are in elements, rounded up to whole alignment units. A chunk is what one worker
        # adds up; it is rounded as well, so that all workers have chunks of one size.
        quantum = _ALIGN_BYTES // parts[0].element_size()
        sizes = [-(-part.numel() // quantum) * quantum for part in parts]
        chunk = -(-sum(sizes) // (quantum * world_size)) * quantum
        # Two workers have a single addition, and a + b equals b + a to the last bit.
        self._group, self._direct = group, world_size == 2 or not exact
        self._flats = [
            torch.zeros(chunk * world_size, dtype=parts[0].dtype, device=parts[0].device)
            for _ in nodes[rank]
        ]
        self._views = [_views(flat, parts, sizes) for flat in self._flats]
        if self._direct:
            return
        arrivals: dict[Node, Tensor] = {}
        # Exchange number n carries the n-th node of every rank that has more than n nodes.
        for number in range(max(len(held) for held in nodes)):
            senders = [sender for sender, held in enumerate(nodes) if len(held) > number]
            received = self._flats[0].new_empty(len(senders), chunk)
            arrivals |= {nodes[sender][number]: received[row] for row, sender in enumerate(senders)}
            # A rank without an n-th node takes part and sends nothing.
            sent = self._flats[number] if rank in senders else self._flats[0][:0]
            sizes_in = [chunk if other in senders else 0 for other in range(world_size)]
            sizes_out = [len(sent) // world_size] * world_size
            self._exchanges.append((received.view(-1), sent, sizes_in, sizes_out))
        self._arrivals = sorted(arrivals.items(), key=lambda arrival: arrival[0])

    def pack(self) -> None:
        """Copies the nodes of this worker into the flat tensors that are sent."""
        for views, (_, values) in zip(self._views, self.fold.parts, strict=True):
            torch._foreach_copy_(views, values)
        self.fold.clear()

    def reduce(self) -> None:
        """Replaces this worker's nodes by the sum over all workers. Raises PeerLostError."""
        if self._direct:
            self._group.sum_(self._flats[0])
            return
        for received, sent, sizes_in, sizes_out in self._exchanges:
            self._group.exchange(received, sent, sizes_in, sizes_out)
        self._between.clear()
        for node, chunk in self._arrivals:
            # Added in place, so the sum ends in the memory of the leftmost node, which is the
            # first row of the first exchange.
            self._between.push(node, chunk)
        received = self._exchanges[0][0]
        self._group.gather(self._flats[0], received.view(self._group.world.world_size, -1))

    def sums(self) -> list[Tensor]:
        """Sums of the parameters' gradients, then of the extras."""
        return self._views[0] if self._views else self.fold.parts[0][1]


def cut_into_buckets(
    parameters: Sequence[nn.Parameter], extras_dtype: torch.dtype, bucket_bytes: int
) -> list[list[nn.Parameter]]:
    """Cuts parameters into buckets of one dtype each.

    Args:
        parameters: Parameters in the order of the network, first layer first.
        extras_dtype: Dtype of the last bucket, which also carries the other tensors of a shard.
        bucket_bytes: Maximum bytes of a bucket of several parameters; a larger one travels alone.

    Returns:
        The buckets in the order in which a backward pass computes gradients: last layer first.
    """
    buckets: list[list[nn.Parameter]] = [[]]
    num_bytes = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if buckets[-1] and (
            num_bytes + size > bucket_bytes or buckets[-1][0].dtype != parameter.dtype
        ):
            buckets.append([])
            num_bytes = 0
        buckets[-1].append(parameter)
        num_bytes += size
    if buckets[-1] and buckets[-1][0].dtype != extras_dtype:
        buckets.append([])
    return buckets


def _add_lists(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    torch._foreach_add_(left, right)
    return left


def _views(flat: Tensor, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Views of a flat tensor, one for each part, with the part's strides.

    The fused optimisers walk memory: a gradient must lie as its weight does (channels_last).
    """
    views, offset = [], 0
    for part, size in zip(parts, sizes, strict=True):
        views.append(torch.as_strided(flat, part.size(), part.stride(), offset))
        offset += size
    return views
