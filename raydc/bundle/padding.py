"""Batch sizes at which a row's outputs do not depend on the other rows, bit for bit.

Libraries of matrices choose other kernels for other numbers of rows, which round differently. Most
of them treat all multiples of some number alike. `measure` finds the smallest such number
for a network on this machine, and `Bundle.forward` fills each batch up to it. Used in the driver,
in tasks of an evaluation and in replicas.

Shape suffixes: B rows, K outputs, R sampled rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

if TYPE_CHECKING:
    from raydc.bundle.folder import Bundle

logger = logging.getLogger("ray.serve")

Array = npt.NDArray[Any]
Run = Callable[[Array], Array]

# A network so slow that its first sizes take longer computes each row alone. Far above what common
# networks need: a busy machine must not decide otherwise than an idle one, with other last bits.
_LONGEST_S = 60.0
# Time for all other sizes and for more rows.
_BUDGET_S = 2.0
_NUM_SAMPLED = 16
# Rows of the first tries, each of which is computed alone too.
_NUM_FIRST = 4
# Sizes that are always tried: the number of rows, and up to this many times as many.
_ALWAYS_TRIED = 8


@dataclass(frozen=True)
class Padding:
    """Numbers of rows that a forward pass may have.

    Attributes:
        sizes: The numbers in ascending order. A batch is filled up to the next one; a longer batch
            than the last runs in parts.
        is_independent: Whether a row's outputs do not depend on the other rows. False only for a
            network whose outputs change from pass to pass.
    """

    sizes: tuple[int, ...]
    is_independent: bool = True

    @property
    def max_rows(self) -> int:
        """Most rows of a forward pass."""
        return self.sizes[-1]

    @property
    def multiple(self) -> int:
        """Least rows of a forward pass."""
        return self.sizes[0]

    @cached_property
    def _size_by_rows(self) -> list[int]:
        return [
            next(size for size in self.sizes if size >= num_rows)
            for num_rows in range(self.max_rows + 1)
        ]

    def pad(self, x: Array) -> Array:
        """Fills a batch up to the next size with copies of its last row.

        Copies, because a network may raise for a row of zeros, but not for one that it gets anyway.

        Args:
            x: Inputs [B, *shape] of 1 to `max_rows` rows.
        """
        num_rows = len(x)
        size = self._size_by_rows[num_rows]
        if size == num_rows:
            return x
        padded = np.empty((size, *x.shape[1:]), dtype=x.dtype)
        padded[:num_rows] = x
        padded[num_rows:] = x[-1]
        return padded

    def __str__(self) -> str:
        if not self.is_independent:
            return "depends on the pass: the network's outputs change from pass to pass"
        if self.sizes == (1,):
            return "independent of its batch; each row is computed alone"
        return f"independent of its batch; batches are padded to {self.multiple} rows or more"


def measure(bundle: Bundle) -> Padding:
    """Finds the sizes of forward passes for a bundle on this machine, with its threads.

    Processes on the same type of CPU or GPU find the same least size. A slow network gets fewer
    sizes. Takes 20 ms for a small network, about 3 s for a large one, and a minute at most.

    Args:
        bundle: A loaded bundle; `max_rows` is the largest size.
    """
    rows = _usable_rows(bundle)
    padding = Padding((1,)) if rows is None else find_padding(bundle.run, rows, bundle.max_rows)
    if not padding.is_independent:
        logger.warning("an answer of %s %s", bundle.spec.name, padding)
    return padding


def find_padding(run: Run, rows_R: Array, max_rows: int, budget_s: float = _BUDGET_S) -> Padding:
    """Finds the smallest multiple of rows at which each size gives a row the bits it has alone.

    If there is none, each row is computed alone. A search that takes more than a minute ends like
    that too, with a warning: another process may finish it.

    Args:
        run: Forward pass, maps inputs [B, *shape] to outputs [B, K].
        rows_R: Inputs to try it with, [R, *shape].
        max_rows: Largest size.
        budget_s: Time for what is tried only while there is time.
    """
    started = time.monotonic()
    multiple = 1
    while time.monotonic() < started + _LONGEST_S:
        trial = _Trial(run, rows_R, multiple, started + budget_s, started + _LONGEST_S)
        if sizes := trial.find_sizes(max_rows):
            return Padding(tuple(sorted(sizes)))
        if multiple >= max_rows:
            break
        multiple = min(2 * multiple, max_rows)
    if time.monotonic() >= started + _LONGEST_S:
        logger.warning(
            "no batch size was found within %g s, so each row is computed alone; a faster machine "
            "may find one, and answers of the two may differ in their last bits",
            _LONGEST_S,
        )
    try:
        is_independent = np.array_equal(run(rows_R[:1]), run(rows_R[:1]), equal_nan=True)
    # A model may raise anything, and then each request of one row gets that error.
    except Exception:  # noqa: BLE001
        is_independent = True
    return Padding((1,), is_independent)


class _Trial:
    """Compares batches of multiples of some rows with the same rows alone.

    Args:
        run: Forward pass, maps inputs [B, *shape] to outputs [B, K].
        rows_R: Inputs to try it with, [R, *shape].
        multiple: Least number of rows; a row that is alone is repeated as often.
        deadline: Monotonic time after which nothing more is tried that need not be.
        last_deadline: Monotonic time at which the trial fails.
    """

    def __init__(
        self, run: Run, rows_R: Array, multiple: int, deadline: float, last_deadline: float
    ) -> None:
        self._run = run
        self._rows_R = rows_R
        self._multiple = multiple
        self._deadline = deadline
        self._last_deadline = last_deadline
        self._alone: dict[int, Array] = {}
        # The same rows in every process, so that all of them decide alike.
        self._choose = np.random.default_rng(multiple)

    def find_sizes(self, max_rows: int) -> list[int]:
        """Returns sizes that give each row the bits it has alone; none if one does not."""
        found: list[int] = []
        multiples = range(self._multiple, max_rows + 1, self._multiple)
        doubled = [size for size in multiples if (size // self._multiple).bit_count() == 1]
        always = [size for size in doubled if size <= _ALWAYS_TRIED * self._multiple]
        try:
            for size in always:
                if time.monotonic() > self._last_deadline or not self._is_equal(size, _NUM_FIRST):
                    return []
                found.append(size)
            # Powers of two first, so that little time covers a wide range.
            for size in dict.fromkeys([*doubled, multiples[-1], *multiples]):
                started = time.monotonic()
                if not self._is_equal(size, len(self._rows_R)):
                    return []
                found.append(size)
                # The next size may be twice as large.
                if 3 * time.monotonic() - 2 * started > self._deadline:
                    break
        # A model may raise for one row or for too many: too little memory, for example.
        except Exception:  # noqa: BLE001
            return sorted(set(found))
        return sorted(set(found))

    def _is_equal(self, size: int, num_rows: int) -> bool:
        """Whether a batch of rows in any order gives each the bits that it has alone."""
        chosen_B = self._choose.integers(min(num_rows, len(self._rows_R)), size=size)
        for row in set(chosen_B.tolist()) - self._alone.keys():
            copies = np.repeat(self._rows_R[row : row + 1], self._multiple, axis=0)
            self._alone[row] = self._run(copies)[0]
        expected_BK = np.stack([self._alone[row] for row in chosen_B])
        return self._run(self._rows_R[chosen_B]).tobytes() == expected_BK.tobytes()


def _usable_rows(bundle: Bundle) -> Array | None:
    """Inputs that the network takes, [R, *shape]; None if it takes none of those tried."""
    signature = bundle.features.signature
    shape = (_NUM_SAMPLED, *signature.shape)
    choose = np.random.default_rng(0)
    golden = bundle.golden_inputs
    tries: list[Array] = []
    if golden is not None:
        # Each input of a row comes from any of the golden rows, so there are many more rows and no
        # value that training has not seen.
        source = choose.integers(len(golden), size=shape)
        tries += [np.take_along_axis(golden, source, axis=0), golden[:_NUM_SAMPLED]]
    elif signature.kind == "image":
        tries.append(choose.integers(0, 256, size=shape, dtype=np.uint8))
    else:
        tries.append(choose.standard_normal(shape, dtype=np.float32))
    tries.append(np.zeros(shape, dtype=signature.dtype))
    for rows in tries:
        try:
            bundle.run(rows[:_NUM_FIRST])
        except Exception:  # noqa: BLE001 -- whatever a user's network raises
            continue
        return rows
    return None


def store_by_input(network: nn.Module) -> None:
    """Stores the weights of linear layers by input instead of by output, in place.

    Their values and shapes stay. On CPUs, MKL then gives two rows and more the same bits, where it
    needed sixteen, and multiplies small batches faster.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and isinstance(layer.weight, nn.Parameter):
            layer.weight.data = layer.weight.data.t().contiguous().t()
