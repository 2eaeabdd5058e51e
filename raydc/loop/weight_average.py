"""The exponential moving average of a network's state. Runs in each worker; needs torch only.

Every worker holds the same weights, so every worker computes the same average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages the weights and floating-point buffers of a network over the steps.

    The average starts with the state after the first step. At first it keeps only
    (1 + t) / (10 + t), if that is less than `decay`, so that early weights are soon forgotten.

    Args:
        network: The network whose state is averaged.
        decay: Fraction of the average that a step keeps; the rest comes from the new state.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the state after a step to the average.

        Args:
            step: Steps completed before this one, from 0; they decide how much the average keeps.
        """
        live = self._live()
        if not self._kept:
            self._kept = {name: tensor.detach().clone() for name, tensor in live.items()}
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in live.items():
            # `lerp_` leaves equal numbers unchanged to the last bit, such as frozen weights.
            if tensor.is_floating_point():
                self._kept[name].lerp_(tensor, 1.0 - decay)
            else:
                self._kept[name].copy_(tensor)

    def tensors(self) -> Iterator[Tensor]:
        """Yields the averages; none before the first step."""
        yield from self._kept.values()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averaged state into the network; on exit its own state is put back."""
        if not self._kept:
            yield
            return
        live = self._live()
        # All are copied before one is replaced: tied weights are one tensor under several names.
        own = {name: tensor.clone() for name, tensor in live.items()}
        _copy(self._kept, live)
        try:
            yield
        finally:
            _copy(own, live)

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by name, for `load_state`; they are not copied."""
        return self._kept

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the average by a result of `state`."""
        live = self._live()
        self._kept = {
            name: torch.empty_like(live[name]).copy_(tensor) for name, tensor in state.items()
        }

    def _live(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._network.state_dict()
        return state


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
