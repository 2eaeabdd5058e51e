"""One optimiser step over logical shards. Runs in each worker; needs torch only.

A step is V logical shards, whoever computes them. Each shard starts from the same weights and
buffers and from its own random state. Gradients, losses and changes of buffers are summed over all
shards along one tree, and divided once by the rows (buffers: by the shards; texts: by the predicted
tokens, which only the sum knows) of the whole step. With
`exact: false` in the spec, the rows of a worker are one shard, as in plain data parallelism.

Shape suffixes: B rows of this worker, K outputs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydc import order
from raydc.checkpoint.state import AVERAGE
from raydc.errors import TrainError
from raydc.loop.buffers import ShardBuffers
from raydc.loop.group import Group
from raydc.loop.length import Length
from raydc.loop.mixing import Mixed, Mixer
from raydc.loop.optimizer import make_optimizer, make_scheduler, make_update, names_without_decay
from raydc.loop.reduction import Reduction
from raydc.loop.shard_state import running_statistics, seed_shard
from raydc.loop.weight_average import WeightAverage
from raydc.models.frozen_body import FrozenBody
from raydc.models.losses import LossSum
from raydc.models.network_parts import Network
from raydc.models.row_tensors import RowTensors, network_inputs, take
from raydc.spec.resolved import ResolvedTrain

# Index of a logical shard, and its slice of the rows of a worker.
Shards = Sequence[tuple[int, slice]]
_AS_IT_IS = contextlib.nullcontext()


class Step:
    """Computes optimiser steps on a network.

    Args:
        network: Network to train, on its device and in training mode.
        loss_sum: Maps outputs and targets to the sum of the rows' losses (`losses.make_loss`).
        train: Section `train` of a resolved spec, with the optimiser and its schedule.
        seed: Seed of the run, from which the random state of each shard is set.
        length: Length of the run, for the learning rate schedule.
        group: The process group over which the gradients are summed.
        mixer: Mixes the rows of each shard; None leaves them as they are.
        body: Frozen body of the network, whose outputs take the place of rows; None if rows are
            given.
        divisor: What the targets of some rows add to the divisor of the losses, a float32 scalar
            (`losses.divisor_of`); None divides by the number of rows.

    Attributes:
        before_update: Called when the gradients are known, before weights and optimiser change.
        network: Network that is trained.
        optimizer: Optimiser with the groups of parameters of the spec.
        scheduler: Learning rate schedule; None if the rate is constant.
        average: Moving average of the weights; None if the spec wants none.
        passes_note: How the number of rows of a pass was found; None if it was given.
        micro_batch_size: Most rows of a pass; None computes a shard at once. Of a spec with `auto`
            it is None until the number is found (`micro_batch.settle`).
    """

    def __init__(
        self,
        network: Network,
        loss_sum: LossSum,
        train: ResolvedTrain,
        seed: int,
        length: Length,
        group: Group,
        mixer: Mixer | None = None,
        body: FrozenBody | None = None,
        divisor: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.before_update: Callable[[], None] = lambda: None
        self.network = network
        self.optimizer = make_optimizer(train, network)
        self.scheduler = make_scheduler(train, self.optimizer, length)
        self._update = make_update(self.optimizer, self.scheduler)
        self.average = None if train.ema_decay is None else WeightAverage(network, train.ema_decay)
        self._loss_sum = loss_sum
        self._divisor = divisor
        self._seed = seed
        self._mixer = mixer
        self._compute = network if body is None else body.finish
        self._rank = group.world.rank
        self._device = group.world.device
        self._mixed = train.precision == "bf16"
        # A shard is one pass, whoever computes it, so its padding is a function of its own rows.
        self._is_tight = train.group_by_length
        given = train.micro_batch_size
        self.passes_note: str | None = None
        self.micro_batch_size = given if isinstance(given, int) else None
        self._clip_norm = train.gradient_clip_norm
        self._exact = train.exact
        self._num_logical = train.logical_shards
        self._num_shards = self._num_logical if train.exact else group.world.world_size
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        undecayed = names_without_decay(train, network)
        self._l1 = train.l1
        self._penalised = [
            p for name, p in network.named_parameters() if p.requires_grad and name not in undecayed
        ]
        self._buffers = ShardBuffers(network, self._num_shards)
        # The loss travels with the changes of the buffers, in the last bucket of gradients.
        sums = [torch.zeros((), device=self._device) for _ in range(1 if divisor is None else 2)]
        extras = [*self._buffers.changes, *sums]
        self._reduction = Reduction(self._parameters, extras, self._num_shards, group, train.exact)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def __call__(
        self, step: int, num_rows: int, x: RowTensors, y_B: Tensor, shards: Shards
    ) -> Tensor:
        """Computes the logical shards of this worker, sums over all workers, updates the weights.

        Args:
            step: Steps completed before this one; with the seed it fixes the random state.
            num_rows: Rows of the step over all workers, by which the loss is divided.
            x: Rows of this worker, a tensor [B, *shape] or a record, on the device.
            y_B: [B], targets of these rows, on the device.
            shards: Index and slice of B of each logical shard of this worker that has rows.

        Returns:
            The loss of the step, the mean over the rows or tokens of all workers; a scalar on the
            device.
        """
        # As `zero_grad` of the optimiser, without its hooks.
        for parameter in self._parameters:
            parameter.grad = None
        self._buffers.start_step()
        self._reduction.start_step()
        rows_of = dict(shards) if self._exact else {self._rank: slice(0, len(x))}
        for shard in self._reduction.shards:
            rows = rows_of.get(shard, slice(0, 0))
            extras: list[Tensor] | None = None
            if rows.stop > rows.start:
                extras = self.compute_shard(step, shard, num_rows, *take(rows, x, y_B))
            self._reduction.finish_shard(shard, extras)
        *changes, loss = self._finish_reduction(num_rows)
        # With fewer rows than shards, some of the shards are empty and changed nothing.
        num_shares = order.num_ranks_with_rows(num_rows, self._num_logical, self._num_shards)
        self._buffers.finish_step(changes, num_shares)
        if self._l1:
            self._add_penalty()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm, foreach=True)
        self.before_update()
        self._update()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update(step)
        return loss

    def _finish_reduction(self, num_rows: int) -> list[Tensor]:
        """Sums over all shards: the changes of the buffers, and the mean loss, which comes last."""
        sums = self._reduction.finish_step()
        if self._divisor is None:
            return [*sums[:-1], sums[-1] / num_rows]
        # Gradients were divided by the number of rows, because no worker knows all tokens.
        # Rows of questions only add nothing, and must not divide by nothing.
        num_tokens = sums[-1].clamp(min=1.0)
        factor = num_rows / num_tokens
        with torch.no_grad():
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return [*sums[:-2], sums[-2] / num_tokens]

    @torch.no_grad()
    def _add_penalty(self) -> None:
        """Adds the gradient of the L1 penalty, once for the whole step."""
        for parameter in self._penalised:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=self._l1)

    def compute_shard(
        self, step: int, shard: int, num_rows: int, x: RowTensors, y_B: Tensor
    ) -> list[Tensor]:
        """Computes the gradients of one logical shard, for the reduction to take.

        Args:
            step: Steps completed before this one; with the seed it fixes the random state.
            shard: Index of the logical shard, which is part of the random state.
            num_rows: Rows of the step over all workers, by which the loss is divided.
            x: Rows of this shard only, on the device.
            y_B: Targets of the rows of this shard.

        Returns:
            The changes of the buffers, then the loss, summed over the rows, then what the rows add
            to the divisor, if there is one.
        """
        seed_shard(self._seed, step, shard, self._device)
        self._buffers.restore()
        mixed = None
        if self._mixer is not None:
            # Columns that are stored as codes are mixed as the numbers that they become.
            numbers = network_inputs(x)
            assert isinstance(numbers, Tensor), "`make_mixer` refuses rows of several fields"
            mixed = self._mixer(step, shard, numbers, y_B)
        *earlier, last = order.passes(len(x), self.micro_batch_size)
        losses = []
        for rows in (*earlier, last):
            # Gradients of several passes add up where they are. Only the last ones are sent.
            if rows is last:
                self._reduction.start_shard(shard)
            else:
                self._reduction.hold()
            with running_statistics(self.network) if rows.stop - rows.start == 1 else _AS_IT_IS:
                if mixed is None:
                    x_pass, y_pass = take(rows, x, y_B)
                    loss = self._loss_sum(self.forward(x_pass, self._is_tight), y_pass)
                else:
                    loss = self._mixed_loss(mixed, rows)
            # Dividing the one number divides all gradients without a pass over them. A gradient
            # passed to `backward` would make torch import sympy, at the first step of a worker.
            (loss * (1.0 / num_rows)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        divisor = [] if self._divisor is None else [self._divisor(y_B)]
        return [*self._buffers.collect(), functools.reduce(torch.add, losses), *divisor]

    def _mixed_loss(self, mixed: Mixed, rows: slice) -> Tensor:
        outputs_BK = self.forward(mixed.x[rows])
        loss = self._loss_sum(outputs_BK, mixed.y_B[rows])
        if mixed.weight == 1.0:
            return loss
        # Two losses instead of a mixed target, so that every loss can be mixed.
        partner_loss = self._loss_sum(outputs_BK, mixed.partner_y_B[rows])
        return mixed.weight * loss + (1.0 - mixed.weight) * partner_loss

    def try_pass(self, x: RowTensors, y_B: Tensor, is_backward: bool = True) -> Tensor:
        """Computes rows as one pass of a shard and forgets the gradients; the state stays.

        Args:
            x: Rows of a pass, on the device.
            y_B: Their targets.
            is_backward: Whether gradients are computed as well.

        Returns:
            The loss, summed over the rows.
        """
        before = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self._reduction.hold()
        try:
            with running_statistics(self.network) if len(x) == 1 else _AS_IT_IS:
                loss = self._loss_sum(self.forward(x, self._is_tight), y_B)
            if is_backward:
                loss.backward()  # type: ignore[no-untyped-call]
        finally:
            # A pass that exceeds the memory may have changed some of them.
            for parameter in self._parameters:
                parameter.grad = None
            with torch.no_grad():
                for name, buffer in self.network.named_buffers():
                    buffer.copy_(before[name])
        return loss

    def forward(self, x: RowTensors, is_tight: bool = False) -> Tensor:
        """Raw outputs, float32 [B, K], computed in the precision of the spec.

        Args:
            x: Rows of one pass.
            is_tight: As of `row_tensors.network_inputs`.

        Raises:
            TrainError: The network gives a different number of rows from its inputs.
        """
        inputs = network_inputs(x, is_tight)
        if self._mixed:
            with torch.autocast(self._device.type, torch.bfloat16):
                outputs_BK: Tensor = self._compute(inputs)
        else:
            outputs_BK = self._compute(inputs)
        # A loss would compare each target with another row, or with all of them.
        if outputs_BK.ndim != 2 or len(outputs_BK) != len(x):
            raise TrainError(
                f"the network gives {tuple(outputs_BK.shape)} for {len(x)} row(s)",
                "Its outputs must have one row for each row of its inputs, whatever their number.",
            )
        return outputs_BK

    def state(self) -> dict[str, Any]:
        """State of optimiser, schedule and average, for `load_state`, with the live tensors."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        average = {} if self.average is None else {AVERAGE: self.average.state()}
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler, **average}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a result of `state`. Raises ValueError if it is of a different network."""
        self.optimizer.load_state_dict(state["optimizer"])
        # The fused kernels walk memory: the state of a weight must lie as the weight does, which
        # matters for channels_last.
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state(state[AVERAGE])

    @contextlib.contextmanager
    def judged_network(self) -> Iterator[None]:
        """The network is as it is validated inside: in evaluation mode, with averaged weights."""
        self.network.eval()
        with contextlib.nullcontext() if self.average is None else self.average.applied():
            yield
        self.network.train()
