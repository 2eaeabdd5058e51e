"""One optimiser step over logical shards: torch only.

A step is V logical shards, whoever computes them. Each shard starts from the same weights and buffers and from random
state of its own; gradients, losses and changes of buffers are summed over all shards along one tree, and divided once
by the rows (the buffers: by the shards) of the whole step. Where the spec says `exact: false`, the rows of a worker are
one shard, as in plain data parallelism.

Shape suffixes: B rows of this worker, K outputs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from raydc import order
from raydc.loop.buffers import ShardBuffers
from raydc.loop.group import Group
from raydc.loop.reduction import Reduction
from raydc.models.networks import Network
from raydc.models.scores import loss_sum
from raydc.spec.resolved import ResolvedTrain

Shards = Sequence[tuple[int, slice]]
# The last bits of a matrix product depend on whether its operands lie on such addresses, as tensors of their own do.
_ALIGN_BYTES = 64


def make_optimizer(train: ResolvedTrain, network: nn.Module) -> Optimizer:
    """The optimiser of a spec, in torch's fused form."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    section = train.optimizer
    arguments: dict[str, Any] = {"lr": train.learning_rate, "fused": True}
    if section.weight_decay is not None:
        arguments["weight_decay"] = section.weight_decay
    if section.name == "sgd":
        return torch.optim.SGD(
            parameters, momentum=section.momentum, nesterov=section.nesterov, **arguments
        )
    if section.name == "adam":
        return torch.optim.Adam(parameters, **arguments)
    return torch.optim.AdamW(parameters, **arguments)


def make_scheduler(
    train: ResolvedTrain, optimizer: Optimizer, total_steps: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler | None:
    """The course of the learning rate, advanced once a step; None where it is constant.

    Args:
        train: Section `train`.
        optimizer: A new one, at its highest rate.
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.
    """
    section = train.lr_scheduler
    warmup = min(section.warmup_steps, total_steps - 1)
    remaining = max(1, total_steps - warmup)
    course: lr_scheduler.LRScheduler | None = None
    if section.name == "cosine":
        lowest = train.learning_rate * section.final_fraction
        course = lr_scheduler.CosineAnnealingLR(optimizer, remaining, lowest)
    elif section.name == "linear":
        course = lr_scheduler.LinearLR(optimizer, 1.0, section.final_fraction, remaining)
    elif section.name == "step":
        period = section.step_epochs * steps_per_epoch
        drops = [step - warmup for step in range(period, total_steps, period) if step > warmup]
        course = lr_scheduler.MultiStepLR(optimizer, drops, section.gamma)
    if warmup < 1:
        return course
    # Step s of the warm-up runs at (s + 1) / (warmup + 1) of the highest rate.
    rise = lr_scheduler.LinearLR(optimizer, 1.0 / (warmup + 1), 1.0, warmup)
    course = course or lr_scheduler.ConstantLR(optimizer, 1.0, 0)
    return lr_scheduler.SequentialLR(optimizer, [rise, course], [warmup])


def seed_shard(seed: int, step: int, shard: int, device: torch.device) -> None:
    """Sets the random state in which a logical shard is computed: a function of these three numbers alone."""
    digest = hashlib.blake2b(b"%d.%d.%d" % (seed, step, shard), digest_size=8).digest()
    key = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)


@contextlib.contextmanager
def _one_row(network: nn.Module, num_rows: int) -> Iterator[None]:
    """One row has no statistics: batch normalisation uses the running ones for a shard of one."""
    modules = (
        network.modules() if num_rows == 1 else ()
    )  # Every step comes by here: no walk where none is needed.
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _aligned(x: Tensor) -> Tensor:
    """The same rows. Bytes go as they are: the input layer makes new numbers of them, one by one."""
    return x.clone() if x.is_floating_point() and x.data_ptr() % _ALIGN_BYTES else x


class Step:
    """Does optimiser steps on a network.

    Args:
        network: On its device, in training mode.
        task: classification or regression.
        train: Section `train` of a resolved spec.
        seed: Seed of the run.
        total_steps: Steps of the whole run, for the schedule.
        steps_per_epoch: Steps of an epoch, for the schedule.
        group: The workers.
        device: Of the network.

    Attributes:
        before_update: Called when the gradients are there, before weights and optimiser change.
    """

    def __init__(
        self,
        network: Network,
        task: str,
        train: ResolvedTrain,
        seed: int,
        total_steps: int,
        steps_per_epoch: int,
        group: Group,
        device: torch.device,
    ) -> None:
        self.before_update: Callable[[], None] = lambda: None
        self.network = network
        self.optimizer = make_optimizer(train, network)
        self.scheduler = make_scheduler(train, self.optimizer, total_steps, steps_per_epoch)
        self._task = task
        self._seed = seed
        self._group = group
        self._device = device
        self._mixed = train.precision == "bf16"
        self._clip_norm = train.gradient_clip_norm
        self._exact = train.exact
        self._num_logical = train.logical_shards
        self._num_shards = self._num_logical if train.exact else group.world_size
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._buffers = ShardBuffers(network, self._num_shards)
        extras = [*self._buffers.changes, torch.zeros((), device=device)]
        self._reduction = Reduction(self._parameters, extras, self._num_shards, group, train.exact)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def __call__(self, step: int, num_rows: int, x: Tensor, y_B: Tensor, shards: Shards) -> Tensor:
        """Computes the logical shards of this worker, adds up over all workers and updates the weights.

        Args:
            step: Steps done before this one; with the seed it fixes the random state.
            num_rows: Rows of the step over all workers.
            x: [B, *shape] rows of this worker, on the device.
            y_B: Their targets.
            shards: Index of each logical shard of this worker that has rows, and its slice of B.

        Returns:
            The loss of the step, the mean over the rows of all workers: one number, on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._buffers.begin()
        self._reduction.begin()
        rows_of = dict(shards) if self._exact else {self._group.rank: slice(0, len(x))}
        for shard in self._reduction.shards:
            rows = rows_of.get(shard, slice(0, 0))
            has_rows = rows.stop > rows.start
            extras = self._shard(step, shard, num_rows, x[rows], y_B[rows]) if has_rows else None
            self._reduction.add(shard, extras)
        *changes, loss = self._reduction.finish()
        self._buffers.finish(
            changes, order.num_shares(num_rows, self._num_logical, self._num_shards)
        )
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm, foreach=True)
        self.before_update()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss / num_rows

    def _shard(self, step: int, shard: int, num_rows: int, x: Tensor, y_B: Tensor) -> list[Tensor]:
        """Computes gradients, for the reduction to take; returns changes of buffers, and the loss."""
        seed_shard(self._seed, step, shard, self._device)
        self._buffers.restore()
        self._reduction.expect(shard)
        with _one_row(self.network, len(x)):
            loss = loss_sum(self._task, self.forward(x), y_B)
        # The division by the rows of the step is the first thing that happens to a gradient: no pass over all of them.
        loss.backward(torch.full_like(loss, 1.0 / num_rows))  # type: ignore[no-untyped-call]
        return [*self._buffers.collect(), loss.detach()]

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, float32 [B, K], in the precision of the spec."""
        x = _aligned(x)
        if not self._mixed:
            outputs_BK: Tensor = self.network(x)
            return outputs_BK
        with torch.autocast(self._device.type, torch.bfloat16):
            return self.network(x)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """Optimiser and schedule, for `load_state`. Tensors are the live ones."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave. Raises ValueError where it belongs to another network."""
        self.optimizer.load_state_dict(state["optimizer"])
        # The fused kernels walk memory: what belongs to a weight must lie as the weight does (channels_last).
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
