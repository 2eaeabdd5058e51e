"""Finds out how a replica should run a model: inline or in a thread, and in which batches.

It runs forward passes to find out, which warms up the model as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from raydc.bundle import Bundle
from raydc.features import example_rows

logger = logging.getLogger("ray.serve")

# A shorter forward pass runs on the event loop: handing it to a thread costs about as much.
_INLINE_FORWARD_S = 0.001
# The same for the largest batch, which holds up the loop once for all its requests.
_INLINE_BATCH_S = 0.004
# The first one allocates buffers, and a busy machine may delay some of the others.
_NUM_TRIES = 20
# Ratio of rows a second that makes a larger batch worth the longer wait of its requests.
_GAIN = 1.1
_NUM_RUNS = 3
_BUDGET_S = 3.0


class BatchPlan(NamedTuple):
    """How to run a model.

    Attributes:
        runs_inline: Whether forward passes run on the event loop rather than in a thread.
        batch_size: Maximum requests and rows of a forward pass.
    """

    runs_inline: bool
    batch_size: int


def measure(bundle: Bundle, max_batch_size: int) -> BatchPlan:
    """Measures one row and larger batches.

    A slow model gets larger batches only if they compute more rows per second. On a GPU this is
    usually `max_batch_size`. On a CPU a convolutional network fills the caches with a few rows,
    and a batch of 64 would make all its requests wait for seconds.

    Args:
        bundle: Loaded model whose forward pass is timed.
        max_batch_size: Maximum requests and rows of a forward pass.
    """
    signature = bundle.features.signature

    def forward_s(num_rows: int) -> float:
        x = example_rows.zeros(signature, num_rows, has_longest=True)
        started = time.perf_counter()
        bundle.forward(x)
        return time.perf_counter() - started

    runs_inline = _is_within(_INLINE_FORWARD_S, lambda: forward_s(1))
    if runs_inline and _is_within(_INLINE_BATCH_S, lambda: forward_s(max_batch_size)):
        return BatchPlan(True, max_batch_size)
    return BatchPlan(False, best_batch_size(forward_s, max_batch_size))


def _is_within(limit_s: float, forward_s: Callable[[], float]) -> bool:
    # The minimum: other work on the machine only ever adds time.
    least_s = float("inf")
    for number in range(_NUM_TRIES):
        least_s = min(least_s, forward_s())
        if least_s <= limit_s:
            return True
        # Far above the limit: more tries of a slow model would take seconds.
        if number >= 2 and least_s > 10 * limit_s:
            return False
    return False


def best_batch_size(
    forward_s: Callable[[int], float], max_batch_size: int, budget_s: float = _BUDGET_S
) -> int:
    """Finds the smallest batch that computes nearly as many rows a second as the best one.

    Sizes are a factor of two apart.

    Args:
        forward_s: Maps a number of rows to the seconds of a forward pass. An error for more than
            one row, such as too little memory, ends the search.
        max_batch_size: Largest batch that is tried.
        budget_s: Time for the search: a batch that would take longer than the rest is not tried.
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
        # Two sizes without a gain mean that a third brings none.
        if size == max_batch_size or size >= 4 * fastest:
            break
        size = min(2 * size, max_batch_size)
        if _NUM_RUNS * size / rates[fastest] > left_s:
            break
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))
