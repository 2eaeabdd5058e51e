"""Sums over the logical shards of a step, the same bits in every worker and for every number of workers.

Inside a worker, shards are added along the tree of `tree.py`. What goes between workers is cut into buckets; a bucket
leaves as soon as the backward pass of the worker's last shard has its gradients, and travels while the pass computes
the others. On its way each worker gets its chunk of every worker's nodes (all-to-all), adds those along the same tree
and gives the sum of its chunk to all (all-gather). Where every worker holds one node, those are the bytes of a ring
all-reduce. Two workers have one addition, and a + b is b + a to the last bit: there it is an all-reduce.

This is the reduce-scatter and all-gather of Rabenseifner (ICCS 2004) with the additions in a fixed order, in the
buckets of Li et al., "PyTorch Distributed" (VLDB 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from raydc import order
from raydc.errors import TrainError
from raydc.loop.group import Group
from raydc.loop.tree import Fold, Node, nodes_of

# As in DistributedDataParallel. On CPUs 1 MiB costs an MLP a fifth of its speed; 4 MiB was no better than this.
BUCKET_BYTES = 25 << 20
# Parts lie on addresses that every kernel takes as aligned, as those of a tensor of its own do.
_ALIGN_BYTES = 64


class Reduction:
    """Adds gradients, and other tensors of a shard, over all logical shards of a step.

    A step is `begin`, then for each shard of this worker, in order, `expect` before its backward pass and `add` after
    it, and in the end `finish`.

    Args:
        parameters: Whose gradients are summed.
        extras: Examples of the other tensors that a shard has: their shapes, float32.
        num_shards: Logical shards of a step, over all workers.
        group: The workers.
        exact: Whether workers are added along the tree, or by an all-reduce in whatever order it likes.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        extras: Sequence[Tensor],
        num_shards: int,
        group: Group,
        exact: bool,
    ) -> None:
        ranges = [
            order.shards_of_rank(num_shards, rank, group.world_size)
            for rank in range(group.world_size)
        ]
        nodes = [nodes_of(num_shards, shards) for shards in ranges]
        self.shards = ranges[group.rank]
        self._alone = group.world_size == 1
        members = [list(parameters)] if self._alone else _cut(parameters, extras[-1].dtype)
        self._buckets = [_Bucket(part, num_shards) for part in members]
        self._buckets[-1].extras = list(extras)
        self._lane = _CommStream(extras[-1].device)
        self._shard = 0
        self._num_closed = 0
        self._leaves_now = False
        if not self._alone:
            for index, bucket in enumerate(self._buckets):
                bucket.connect(group, nodes, exact)
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._hook(index))  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """A step begins."""
        for bucket in self._buckets:
            bucket.fold.clear()

    def expect(self, shard: int) -> None:
        """The backward pass of a shard is next: its gradients are taken as they come."""
        self._shard, self._num_closed = shard, 0
        self._leaves_now = shard == self.shards[-1]
        for bucket in self._buckets:
            bucket.num_missing = len(bucket.parameters)

    def add(self, shard: int, extras: Sequence[Tensor] | None) -> None:
        """The backward pass of a shard is over.

        Args:
            shard: Its index, ascending from call to call.
            extras: Its other tensors; None for a shard without rows, which counts as zeros.
        """
        self._shard = shard
        for bucket in self._buckets[self._num_closed :]:
            last = bucket is self._buckets[-1]
            bucket.close(
                shard, (extras or [torch.zeros_like(e) for e in bucket.extras]) if last else []
            )
            self._depart(bucket)
        self._num_closed = 0

    def finish(self) -> list[Tensor]:
        """Waits for the sums. Every parameter's `grad` becomes its sum.

        Returns:
            The sums of the other tensors; good until the next step.

        Raises:
            PeerLostError: Another worker is gone or hangs.
        """
        self._lane.wait()
        for bucket in self._buckets:
            sums = bucket.sums()
            for parameter, total in zip(bucket.parameters, sums, strict=False):
                parameter.grad = total
        return sums[len(bucket.parameters) :]

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        """What happens when a parameter of a bucket has its gradient: full buckets leave, in the same order everywhere.

        The last bucket holds the extras, which are there only after the pass.
        """
        buckets, bucket = self._buckets, self._buckets[index]

        def arrived(parameter: Tensor) -> None:
            bucket.num_missing -= 1
            if not self._leaves_now:
                return
            if index < self._num_closed:
                raise TrainError(
                    f"a parameter of shape {list(parameter.shape)} got its gradient in several pieces",
                    "Give torch.utils.checkpoint use_reentrant=False, or train on one worker.",
                )
            while (
                self._num_closed < len(buckets) - 1 and buckets[self._num_closed].num_missing <= 0
            ):
                ready = buckets[self._num_closed]
                ready.close(self._shard, [])
                self._num_closed += 1
                self._depart(ready)

        return arrived

    def _depart(self, bucket: _Bucket) -> None:
        if self._alone or self._shard != self.shards[-1]:
            return
        bucket.pack()
        if bucket is self._buckets[-1]:
            self._lane.wait()  # Nothing is left to compute beside it: no detour.
            bucket.travel()
        else:
            self._lane.submit(bucket.travel)


class _Bucket:
    """Some of the parameters, with their way from shards to the sum over all."""

    def __init__(self, parameters: list[nn.Parameter], num_shards: int) -> None:
        self.parameters = parameters
        self.extras: list[Tensor] = []
        self.fold: Fold[list[Tensor]] = Fold(num_shards, _add_lists)
        self.num_missing = 0
        self._between: Fold[Tensor] = Fold(num_shards, Tensor.add_)
        self._flats: list[
            Tensor
        ] = []  # One for each node of this worker; the first takes the sum in the end.
        self._views: list[list[Tensor]] = []
        self._arrivals: list[tuple[Node, Tensor]] = []
        self._rounds: list[_Round] = []

    def close(self, shard: int, extras: Sequence[Tensor]) -> None:
        """Takes the gradients of a shard away from the parameters. One that was not used counts as zero."""
        leaf = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        self.fold.push((shard, shard + 1), [*leaf, *extras])

    def connect(self, group: Group, nodes: Sequence[Sequence[Node]], exact: bool) -> None:
        """Makes room for what goes between workers.

        Args:
            group: The workers.
            nodes: The nodes of each rank.
            exact: See Reduction.
        """
        parts, world_size = [*self.parameters, *self.extras], group.world_size
        quantum = _ALIGN_BYTES // parts[0].element_size()
        sizes = [-(-part.numel() // quantum) * quantum for part in parts]
        chunk = -(-sum(sizes) // (quantum * world_size)) * quantum
        self._group, self._direct = group, world_size == 2 or not exact
        self._flats = [
            torch.zeros(chunk * world_size, dtype=parts[0].dtype, device=parts[0].device)
            for _ in nodes[group.rank]
        ]
        self._views = [_views(flat, parts, sizes) for flat in self._flats]
        if self._direct:
            return
        arrivals: dict[Node, Tensor] = {}
        for number in range(max(len(held) for held in nodes)):
            senders = [rank for rank, held in enumerate(nodes) if len(held) > number]
            received = self._flats[0].new_empty(len(senders), chunk)
            arrivals |= {nodes[rank][number]: received[row] for row, rank in enumerate(senders)}
            sent = self._flats[number] if group.rank in senders else self._flats[0][:0]
            sizes_in = [chunk if rank in senders else 0 for rank in range(world_size)]
            self._rounds.append(
                (received.view(-1), sent, sizes_in, [len(sent) // world_size] * world_size)
            )
        self._arrivals = sorted(arrivals.items(), key=lambda arrival: arrival[0])

    def pack(self) -> None:
        """Puts the nodes of this worker where they leave from."""
        for views, (_, values) in zip(self._views, self.fold.parts, strict=True):
            torch._foreach_copy_(views, values)
        self.fold.clear()

    def travel(self) -> None:
        """From this worker's nodes to the sum over all workers. Raises PeerLostError."""
        if self._direct:
            self._group.sum_(self._flats[0])
            return
        for received, sent, sizes_in, sizes_out in self._rounds:
            self._group.exchange(received, sent, sizes_in, sizes_out)
        self._between.clear()
        for node, chunk in self._arrivals:
            self._between.push(node, chunk)  # In place, so the sum ends where the first chunk was.
        self._group.gather(self._flats[0], self._rounds[0][0].view(self._group.world_size, -1))

    def sums(self) -> list[Tensor]:
        """Of the parameters' gradients and of the extras."""
        return self._views[0] if self._views else self.fold.parts[0][1]


_Round = tuple[Tensor, Tensor, list[int], list[int]]


class _CommStream:
    """Where buckets travel beside the backward pass: a stream of the device, or a thread of the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread: ThreadPoolExecutor | None = None
        self._tasks: list[Future[None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Starts it after all that were submitted before."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                work()
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="raydc-reduction")
        self._tasks.append(self._thread.submit(work))

    def wait(self) -> None:
        """What comes next sees the results. Raises what the work has raised."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()


def _add_lists(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    torch._foreach_add_(left, right)
    return left


def _cut(parameters: Sequence[nn.Parameter], last_dtype: torch.dtype) -> list[list[nn.Parameter]]:
    """Buckets of one type each, in the order in which a backward pass has their gradients: from the last layer on."""
    buckets: list[list[nn.Parameter]] = [[]]
    num_bytes = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if buckets[-1] and (
            num_bytes + size > BUCKET_BYTES or buckets[-1][0].dtype != parameter.dtype
        ):
            buckets.append([])
            num_bytes = 0
        buckets[-1].append(parameter)
        num_bytes += size
    if buckets[-1] and buckets[-1][0].dtype != last_dtype:
        buckets.append([])
    return buckets


def _views(flat: Tensor, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """A view of a flat tensor for each part, in the part's own memory order."""
    views, offset = [], 0
    for part, size in zip(parts, sizes, strict=True):
        views.append(torch.as_strided(flat, part.size(), part.stride(), offset))
        offset += size
    return views
