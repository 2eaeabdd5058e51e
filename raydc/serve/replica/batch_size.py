"""How to run a model's forward passes: found by running some, which warms the model up as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from raydc.bundle import Bundle

logger = logging.getLogger("ray.serve")

# A forward pass that is shorter than this runs on the event loop: handing it to a thread costs about as much.
_INLINE_FORWARD_S = 0.001
# The same for the largest batch, whose requests share it.
_INLINE_BATCH_S = 0.004
# The first makes buffers, and a busy machine may get in the way of others.
_NUM_TRIES = 20
# What a larger batch must gain in rows a second to be worth the longer wait of its requests.
_GAIN = 1.1
_NUM_RUNS = 3
_BUDGET_S = 3.0


class BatchPlan(NamedTuple):
    """`runs_inline`: a forward pass runs on the event loop. `batch_size`: most requests and rows of one."""

    runs_inline: bool
    batch_size: int


def measure(bundle: Bundle, max_batch_size: int) -> BatchPlan:
    """Runs one row and larger batches.

    Where a forward pass takes long, batches are only as large as brings more rows a second. On a GPU this is
    `max_batch_size` as a rule. On a CPU a convolutional network has filled the caches after a few rows, and a batch of
    64 would only be a wait of seconds for all that are in it.

    Args:
        bundle: A model that has been loaded.
        max_batch_size: Most requests and rows of a forward pass.
    """
    signature = bundle.features.signature

    def forward_s(num_rows: int) -> float:
        x = np.zeros((num_rows, *signature.shape), dtype=signature.dtype)
        started = time.perf_counter()
        bundle.forward(x)
        return time.perf_counter() - started

    runs_inline = _is_within(_INLINE_FORWARD_S, lambda: forward_s(1))
    if runs_inline and _is_within(_INLINE_BATCH_S, lambda: forward_s(max_batch_size)):
        return BatchPlan(True, max_batch_size)
    return BatchPlan(False, best_batch_size(forward_s, max_batch_size))


def _is_within(limit_s: float, forward_s: Callable[[], float]) -> bool:
    least_s = float("inf")
    for number in range(_NUM_TRIES):
        least_s = min(least_s, forward_s())
        if least_s <= limit_s:
            return True
        if number >= 2 and least_s > 10 * limit_s:
            return False
    return False


def best_batch_size(
    forward_s: Callable[[int], float], max_batch_size: int, budget_s: float = _BUDGET_S
) -> int:
    """The smallest batch, of those a factor of two apart, that computes nearly as many rows a second as the best.

    Args:
        forward_s: Seconds of a forward pass of so many rows. What it raises for more than one row, because they do
            not fit into memory for example, ends the search.
        max_batch_size: Largest batch.
        budget_s: A batch that would take longer than what is left of this is not tried.
    """
    rates: dict[int, float] = {}
    size, left_s = 1, budget_s
    while True:
        try:
            took_s = min(forward_s(size) for _ in range(_NUM_RUNS))
        except Exception:
            if not rates:
                raise
            logger.warning("a batch of %s rows does not work", size, exc_info=True)
            break
        left_s -= _NUM_RUNS * took_s
        rates[size] = size / took_s
        fastest = max(rates, key=rates.__getitem__)
        # After two sizes that bring nothing, a third will not, either.
        if size == max_batch_size or size >= 4 * fastest:
            break
        size = min(2 * size, max_batch_size)
        if _NUM_RUNS * size / rates[fastest] > left_s:
            break
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))
