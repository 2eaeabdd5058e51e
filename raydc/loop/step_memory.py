"""Where in memory the tensors of a step are. Runs in each worker that trains on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from raydc.loop.step import Step
from raydc.models.huge_pages import use_huge_pages
from raydc.tracking.phase_timer import PhaseTimer
from raydc.tracking.time_account import START_UP

# Huge pages make a step faster by some percent, and to move memory into them takes as long as some
# steps. An attempt that ends sooner would not earn that.
STEPS_BEFORE_MOVE = 100


class StepMemory:
    """Moves what every step reads or writes into huge pages, once an attempt is long enough.

    Args:
        step: Computes the steps.
        is_on_cpu: Whether they are computed on a CPU; nothing is moved otherwise.
        clock: Counts the seconds of the move as start-up.
    """

    def __init__(self, step: Step, is_on_cpu: bool, clock: PhaseTimer) -> None:
        self._step = step
        self._clock = clock
        self._steps_left = STEPS_BEFORE_MOVE if is_on_cpu else 0

    def count_step(self) -> None:
        """Counts a step of this attempt that is done."""
        if self._steps_left == 0:
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            with self._clock.phase(START_UP):
                use_huge_pages(self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        """Yields weights, gradients, state of the optimiser and averages."""
        step = self._step
        for parameter in step.network.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
            state = step.optimizer.state.get(parameter, {})
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))
        if step.average is not None:
            yield from step.average.tensors()
