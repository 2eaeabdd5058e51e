"""Random numbers for code that draws from torch's global generator. In each worker, any thread.

torchvision's transforms take no generator. While a GPU computes, the next images are changed in
another thread, and both would draw from the one generator of the process. Inside `RowDraws`, the
calls of one thread get a generator of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FUNCTIONS = (
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "randint",
    "randint_like",
    "randperm",
    "normal",
    "bernoulli",
    "binomial",
    "multinomial",
    "poisson",
    "_sample_dirichlet",
    "_standard_gamma",
)
_METHODS = (
    "bernoulli",
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "normal_",
    "random_",
    "uniform_",
)
_DRAWS = frozenset(getattr(torch, name) for name in _FUNCTIONS) | frozenset(
    getattr(Tensor, name) for name in _METHODS
)


class RowDraws(TorchFunctionMode):
    """Gives its generator to every call of torch in this thread that draws random numbers.

    Attributes:
        generator: Generator of the current row; `start_row` seeds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def start_row(self, key: int) -> None:
        """Seeds the random numbers of a row with `key`, an integer of at most 63 bits."""
        self.generator.manual_seed(key)

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls a function of torch, with the generator if it draws and was given none."""
        del types
        if func in _DRAWS and (kwargs is None or kwargs.get("generator") is None):
            return func(*args, **{**(kwargs or {}), "generator": self.generator})
        return func(*args, **kwargs) if kwargs else func(*args)


def other_generators() -> dict[str, Any]:
    """The state of each generator that `RowDraws` does not replace, by the name of its library.

    A state that differs after a call proves that the call has drawn from it.
    """
    name, keys, *rest = np.random.get_state()
    return {
        "Python's random": random.getstate(),
        "NumPy": (name, np.asarray(keys).tobytes(), *rest),
        "torch's global generator": torch.default_generator.get_state().numpy().tobytes(),
    }
