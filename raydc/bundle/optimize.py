"""A faster form of a network for CPUs: compiled, with frozen weights. Made in a replica.

It is made only on request (`serve.optimize`), because its numbers differ from those of training in
the third digit. It is used only if the golden rows keep their labels and nearly keep their scores;
otherwise the network stays as it was trained. All batch sizes are compiled before the first
request, so no request waits for a compiler. bfloat16 is used if the CPU multiplies in it.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raydc.bundle.folder import Array, Bundle
from raydc.features import Features, example_rows

logger = logging.getLogger("ray.serve")

# Batches are padded to one of these sizes. Longer ones run in parts, which costs a CPU nothing.
SIZES = (1, 2, 4, 8)
# Largest difference of a probability, or of a regression in standard deviations of its target.
TOLERANCE = 0.02
# A shorter forward pass of one row has nothing to gain.
_SHORT_S = 0.002
_NUM_RUNS = 5
_COMPILERS = ("c++", "g++", "clang++")
# Versions that a replica may load one after the other, times the batch sizes; torch stops
# compiling after 8 by default.
_MAX_COMPILED = 256


class OptimizedNetwork(nn.Module):
    """Runs a compiled network in the batch sizes that it was compiled for.

    Args:
        run: Compiled forward pass, for batches of exactly one of `SIZES`.
        in_bf16: Whether it multiplies in bfloat16, under torch's autocast.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], in_bf16: bool) -> None:
        super().__init__()
        self._run = run
        self._in_bf16 = in_bf16

    def forward(self, x: Tensor) -> Tensor:
        """Runs inputs [B, *shape] in padded parts.

        Args:
            x: Any number of rows; each part is padded to the next of `SIZES`.

        Returns:
            Outputs [B, K] as float32.
        """
        # Compiled code with frozen weights does not accept inference tensors.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16, self._in_bf16),
        ):
            parts = [
                self._run_part(x[start : start + SIZES[-1]])
                for start in range(0, len(x), SIZES[-1])
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run_part(self, x: Tensor) -> Tensor:
        num_rows = len(x)
        size = next(size for size in SIZES if size >= num_rows)
        padded = x.new_zeros((size, *x.shape[1:]))
        padded[:num_rows] = x
        outputs: Tensor = self._run(padded)
        return outputs[:num_rows].float()


def optimize(bundle: Bundle) -> Bundle:
    """Makes the fastest form of a bundle that the golden rows allow.

    Takes seconds to minutes the first time on a machine. The log says in one line what was made.

    Args:
        bundle: The bundle as it was trained; it is not changed.

    Returns:
        A bundle whose `compute` names the form; `bundle` itself if no form is allowed or faster.
    """
    reason = _reason_against(bundle)
    if reason is not None:
        logger.warning("%s is served as it was trained: %s", bundle.spec.name, reason)
        return bundle
    for in_bf16 in (True, False) if has_bf16() else (False,):
        started_s = time.monotonic()
        try:
            made = _compiled(bundle, in_bf16)
            reason = compare_on_golden_rows(bundle, made)
        # Compilers and users' networks may raise anything, and the trained network still works.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if reason is None and _forward_s(made) >= _forward_s(bundle):
            reason = "it is not faster"
        if reason is None:
            took_s = time.monotonic() - started_s
            logger.warning(
                "%s is served %s, made in %.0f s", bundle.spec.name, made.compute, took_s
            )
            return made
        logger.warning("%s is not served %s: %s", bundle.spec.name, _name(in_bf16), reason)
    return bundle


def has_bf16() -> bool:
    """Tells whether this CPU multiplies bfloat16; emulated, it is slower than float32."""
    with contextlib.suppress(OSError):
        return {"amx_bf16", "avx512_bf16"} & set(Path("/proc/cpuinfo").read_text().split()) != set()
    return False


def compare_on_golden_rows(trained: Bundle, made: Bundle) -> str | None:
    """Compares two forms of a model on the golden rows.

    Args:
        trained: The model as it was trained.
        made: The same model compiled or in bfloat16.

    Returns:
        What differs too much, or None.
    """
    x = trained.golden_inputs
    if x is None:
        return "it has no golden rows to be compared on"
    return find_disagreement(trained.forward(x), made.forward(x), trained.features)


def find_disagreement(expected_BK: Array, outputs_BK: Array, features: Features) -> str | None:
    """Finds a changed label, or a score that differs by more than `TOLERANCE`.

    Args:
        expected_BK: Outputs of the trained network.
        outputs_BK: Outputs of the optimized network for the same rows.
        features: Features that both share; turn outputs into scores and labels.

    Returns:
        The difference in words, or None.
    """
    if not features.signature.classes:
        most = float(np.abs(outputs_BK - expected_BK).max())
        return (
            f"a value differs by {most:.3g} standard deviations" if not most <= TOLERANCE else None
        )
    expected, scores = features.scores(expected_BK), features.scores(outputs_BK)
    before, after = (features.choose(values_BK) for values_BK in (expected, scores))
    other = np.argwhere(before != after)
    if len(other):
        return f"the label of golden rows[{other[0][0]}] differs"
    most = float(np.abs(expected - scores).max())
    return (
        f"a score differs by {most:.3g}, more than {TOLERANCE:g}" if not most <= TOLERANCE else None
    )


def _reason_against(bundle: Bundle) -> str | None:
    if bundle.device != "cpu":
        return f"only networks on a CPU are compiled, and it is on {bundle.device}"
    if bundle.features.signature.kind == "record":
        return "only networks of rows that are one array are compiled, and these have fields"
    if os.environ.get("CXX") is None and not any(shutil.which(name) for name in _COMPILERS):
        return "there is no C++ compiler on this machine (apt install g++)"
    took_s = _forward_s(bundle)
    return (
        f"its forward pass takes {1e3 * took_s:.2f} ms, too little to gain from it"
        if took_s < _SHORT_S
        else None
    )


def _compiled(bundle: Bundle, in_bf16: bool) -> Bundle:
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = _MAX_COMPILED
    torch._dynamo.config.accumulated_recompile_limit = _MAX_COMPILED
    torch._inductor.config.freezing = True
    # Otherwise the compiler would start processes, which the replica's resources do not cover.
    torch._inductor.config.compile_threads = 1
    # A copy, because channels_last changes the weights in place.
    network = copy.deepcopy(bundle.model).eval().to(memory_format=torch.channels_last)
    made = replace(
        bundle,
        model=OptimizedNetwork(torch.compile(network, dynamic=False), in_bf16),
        compute=_name(in_bf16),
    )
    signature = bundle.features.signature
    # The first run of each size compiles it.
    for size in SIZES:
        made.run(example_rows.zeros(signature, size))
    return made


def _name(in_bf16: bool) -> str:
    return f"compiled, {'bfloat16' if in_bf16 else 'float32'}"


def _forward_s(bundle: Bundle) -> float:
    signature = bundle.features.signature
    x = example_rows.zeros(signature, 1)
    bundle.forward(x)
    times = []
    for _ in range(_NUM_RUNS):
        started_s = time.perf_counter()
        bundle.forward(x)
        times.append(time.perf_counter() - started_s)
    return min(times)
