"""Sums over the logical shards of a step: the same bits in every worker, for any number of workers.

Runs in each worker. Inside a worker, shards are added along the tree of
`raydc.loop.summation_tree`. What travels between workers is cut into buckets. A bucket leaves as
soon as the backward pass of the worker's last shard has computed its gradients, and travels while
the pass computes the others.

On its way, each worker receives its chunk of every worker's nodes (all-to-all), adds them along the
same tree and sends the sum of its chunk to all (all-gather). If every worker holds one node, this
moves as many bytes as a ring all-reduce. Two workers have a single addition, and a + b equals b + a
to the last bit, so they use an all-reduce.

This is the reduce-scatter and all-gather of Rabenseifner (ICCS 2004) with the additions in a fixed
order, in the buckets of Li et al., "PyTorch Distributed" (VLDB 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raydc import order
from raydc.errors import TrainError
from raydc.loop.bucket import Bucket, cut_into_buckets
from raydc.loop.comm_stream import CommStream
from raydc.loop.group import Group
from raydc.loop.summation_tree import nodes_of


class Reduction:
    """Adds gradients, and other tensors of a shard, over all logical shards of a step.

    A step is `start_step`; then for each shard of this worker, in order, `start_shard` before its
    last backward pass, `hold` before each earlier one, and `finish_shard` after them; and
    `finish_step` at the end.

    Args:
        parameters: Parameters whose gradients are summed.
        extras: Examples of the other tensors of a shard, which give their shapes; float32.
        num_shards: Logical shards of a step, over all workers.
        group: The process group that the sums travel in.
        exact: Whether workers are added along the tree, or by an all-reduce in any order.

    Attributes:
        shards: Logical shards that this worker computes.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        extras: Sequence[Tensor],
        num_shards: int,
        group: Group,
        exact: bool,
    ) -> None:
        world_size = group.world.world_size
        ranges = [order.shards_of_rank(num_shards, rank, world_size) for rank in range(world_size)]
        self.shards = ranges[group.world.rank]
        self._alone = world_size == 1
        self._parameters = list(parameters)
        # Nothing is to be added, so gradients stay where the backward pass has put them.
        self._has_one_shard = num_shards == 1 and self._alone
        self._extras: list[Tensor] = []
        members = (
            [list(parameters)]
            if self._alone
            else cut_into_buckets(parameters, extras[-1].dtype, group.bucket_bytes)
        )
        self._buckets = [Bucket(part, num_shards) for part in members]
        # The extras exist only after the backward pass, and so does all of the last bucket.
        self._buckets[-1].extras = list(extras)
        self._comm_stream = CommStream(extras[-1].device)
        self._shard = 0
        self._num_closed = 0
        self._is_last_shard = False
        if not self._alone:
            nodes = [nodes_of(num_shards, shards) for shards in ranges]
            for index, bucket in enumerate(self._buckets):
                bucket.connect(group, nodes, exact)
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._hook(index))  # type: ignore[no-untyped-call]

    def start_step(self) -> None:
        """Forgets the sums of the previous step."""
        self._extras = []
        for bucket in self._buckets:
            bucket.fold.clear()

    def start_shard(self, shard: int) -> None:
        """Prepares for the last backward pass of a shard; gradients are taken as they appear."""
        self._shard, self._num_closed = shard, 0
        self._is_last_shard = shard == self.shards[-1]
        for bucket in self._buckets:
            bucket.num_missing = len(bucket.parameters)

    def hold(self) -> None:
        """Prepares for a backward pass that is not the last one of its shard: nothing is sent."""
        self._num_closed, self._is_last_shard = 0, False

    def finish_shard(self, shard: int, extras: Sequence[Tensor] | None) -> None:
        """Takes what the backward pass of a shard has left.

        Args:
            shard: Index of the shard, ascending from call to call.
            extras: Other tensors of the shard; None for a shard without rows, which counts as zero.
        """
        self._shard = shard
        if self._has_one_shard and extras is not None:
            for parameter in self._parameters:
                # What the shard did not use counts as zero, here as in a sum.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._extras = list(extras)
            return
        for bucket in self._buckets[self._num_closed :]:
            last = bucket is self._buckets[-1]
            bucket.take_gradients(
                shard, (extras or [torch.zeros_like(e) for e in bucket.extras]) if last else []
            )
            self._launch(bucket)
        self._num_closed = 0

    def finish_step(self) -> list[Tensor]:
        """Waits for the sums. The `grad` of every parameter becomes its sum.

        Returns:
            The sums of the other tensors, valid until the next step.

        Raises:
            PeerLostError: Another worker is gone or hangs.
        """
        if self._has_one_shard and self._extras:
            return self._extras
        self._comm_stream.wait()
        for bucket in self._buckets:
            sums = bucket.sums()
            for parameter, total in zip(bucket.parameters, sums, strict=False):
                parameter.grad = total
        return sums[len(bucket.parameters) :]

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        """Returns the hook that runs when a parameter gets its gradient; it sends full buckets."""
        buckets, bucket = self._buckets, self._buckets[index]

        def on_gradient(parameter: Tensor) -> None:
            bucket.num_missing -= 1
            # Gradients of earlier shards stay here: the worker sends its sum over all shards.
            if not self._is_last_shard:
                return
            if index < self._num_closed:
                raise TrainError(
                    f"a parameter of shape {list(parameter.shape)} got its gradient in several "
                    "pieces",
                    "Give torch.utils.checkpoint use_reentrant=False, or train on one worker.",
                )
            # Buckets leave by index, not when they are full: all ranks must send in one order.
            while (
                self._num_closed < len(buckets) - 1 and buckets[self._num_closed].num_missing <= 0
            ):
                ready = buckets[self._num_closed]
                ready.take_gradients(self._shard, [])
                self._num_closed += 1
                self._launch(ready)

        return on_gradient

    def _launch(self, bucket: Bucket) -> None:
        """Sends a bucket after the last shard of this worker."""
        if self._alone or self._shard != self.shards[-1]:
            return
        bucket.pack()
        if bucket is self._buckets[-1]:
            # Nothing is left to compute meanwhile, so a thread would only cost time.
            self._comm_stream.wait()
            bucket.reduce()
        else:
            self._comm_stream.submit(bucket.reduce)
