"""Batch sizes at which a row's outputs do not depend on the other rows, bit for bit.

Libraries of matrices choose other kernels for other numbers of rows, which round differently. Most
of them treat all multiples of some number alike. `measure` finds the smallest such number
for a network on this machine, and `Bundle.forward` fills each batch up to it (`padded_passes`).
Used in the driver, in tasks of an evaluation and in replicas.

Shape suffixes: B rows, K outputs, R sampled rows.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from raydc.features import Inputs, Record, example_rows
from raydc.features.record import pad_rows, repeat_rows

if TYPE_CHECKING:
    from raydc.bundle.folder import Bundle

logger = logging.getLogger("ray.serve")

Array = npt.NDArray[Any]
Run = Callable[[Inputs], Array]

# A network so slow that its first sizes take longer computes each row alone. Far above what common
# networks need: a busy machine must decide like an idle one, or the last bits of outputs would
# differ.
_LONGEST_S = 60.0
# Time for all other sizes and for more rows.
_BUDGET_S = 2.0
# Time for all sizes at one length of lists; there are about a dozen lengths.
_LISTS_BUDGET_S = 0.3
_NUM_SAMPLED = 16
# Rows of the first tries, each of which is computed alone too.
_NUM_FIRST = 4
# Output values that the first tries of a size compare. Kernels that round differently still agree
# in about half of all values, so a few would find nothing by chance.
_NUM_COMPARED = 32
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
        """Minimum number of rows in a forward pass."""
        return self.sizes[0]

    @cached_property
    def _size_by_rows(self) -> list[int]:
        return [
            next(size for size in self.sizes if size >= num_rows)
            for num_rows in range(self.max_rows + 1)
        ]

    def pad(self, x: Inputs) -> Inputs:
        """Fills a batch up to the next size with copies of its last row.

        Copies, because a network may raise for a row of zeros, but not for one that it gets anyway.

        Args:
            x: Inputs of 1 to `max_rows` rows.
        """
        num_rows = len(x)
        size = self._size_by_rows[num_rows]
        return x if size == num_rows else pad_rows(x, size)

    def __str__(self) -> str:
        if not self.is_independent:
            return "depends on the pass: the network's outputs change from pass to pass"
        if self.sizes == (1,):
            return "independent of its batch; each row is computed alone"
        return f"independent of its batch; batches are padded to {self.multiple} rows or more"


def measure(bundle: Bundle, lengths: tuple[int, ...] = ()) -> Padding:
    """Finds the sizes of forward passes for a bundle on this machine, with its threads.

    Processes on the same type of CPU or GPU find the same least size. A slow network gets fewer
    sizes. Takes 20 ms for a small network, about 3 s for a large one, and a minute at most.

    Args:
        bundle: A loaded bundle; `max_rows` is the largest size.
        lengths: Padded length of each list of the rows; libraries choose kernels by it as well.
    """
    rows = _usable_rows(bundle, lengths)
    budget_s = _BUDGET_S if not lengths else _LISTS_BUDGET_S
    padding = (
        Padding((1,)) if rows is None else find_padding(bundle.run, rows, bundle.max_rows, budget_s)
    )
    if not padding.is_independent:
        logger.warning("an answer of %s %s", bundle.spec.name, padding)
    return padding


def find_padding(run: Run, rows_R: Inputs, max_rows: int, budget_s: float = _BUDGET_S) -> Padding:
    """Finds the smallest multiple of rows at which each size gives a row the bits it has alone.

    If there is none, each row is computed alone. A search that takes more than a minute ends like
    that too, with a warning: another process may finish it.

    Args:
        run: Forward pass, maps inputs of B rows to outputs [B, K].
        rows_R: Inputs of R rows to try it with.
        max_rows: Maximum number of rows in a forward pass, and the largest size tried.
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
        run: Forward pass, maps inputs of B rows to outputs [B, K].
        rows_R: Inputs of R rows to try it with.
        multiple: Minimum number of rows; a row that is alone is repeated as often.
        deadline: Monotonic time after which nothing more is tried that need not be.
        last_deadline: Monotonic time at which the trial fails.
    """

    def __init__(
        self, run: Run, rows_R: Inputs, multiple: int, deadline: float, last_deadline: float
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
        """Returns sizes that give each row the bits it has alone; none if the multiple fails.

        Sizes that are always tried decide about the multiple, so a busy machine decides as an idle
        one does. Of the others, those that fail are left out.
        """
        found: list[int] = []
        multiples = range(self._multiple, max_rows + 1, self._multiple)
        doubled = [size for size in multiples if (size // self._multiple).bit_count() == 1]
        always = [size for size in doubled if size <= _ALWAYS_TRIED * self._multiple]
        try:
            for size in always:
                if not self._is_always_equal(size):
                    return []
                found.append(size)
            # Powers of two first, so that little time covers a wide range.
            for size in dict.fromkeys([*doubled, multiples[-1], *multiples]):
                started = time.monotonic()
                if self._is_equal(self._choose.integers(len(self._rows_R), size=size)):
                    found.append(size)
                elif size in always:
                    return []
                # The next size may be twice as large.
                if 3 * time.monotonic() - 2 * started > self._deadline:
                    break
        # A model may raise for one row or for too many: too little memory, for example.
        except Exception:  # noqa: BLE001
            return sorted(set(found))
        return sorted(set(found))

    def _is_always_equal(self, size: int) -> bool:
        """Whether a size passes as many batches as its outputs need, within the last deadline."""
        num_outputs = max(self._run_alone(0).size, 1)
        num_rows = max(_NUM_FIRST, math.ceil(_NUM_COMPARED / num_outputs))
        num_rows = min(num_rows, len(self._rows_R))
        for _ in range(math.ceil(_NUM_COMPARED / (size * num_outputs))):
            # A permutation, so that no row is compared twice in a batch while others are left.
            chosen_B = np.resize(self._choose.permutation(num_rows), size)
            if time.monotonic() > self._last_deadline or not self._is_equal(chosen_B):
                return False
        return True

    def _is_equal(self, chosen_B: npt.NDArray[np.int64]) -> bool:
        """Whether a batch of these rows gives each the bits that it has alone."""
        expected_BK = np.stack([self._run_alone(row) for row in chosen_B.tolist()])
        return self._run(self._rows_R[chosen_B]).tobytes() == expected_BK.tobytes()

    def _run_alone(self, row: int) -> Array:
        """Outputs of a row that is repeated to the minimum number of rows."""
        if row not in self._alone:
            copies = repeat_rows(self._rows_R[row : row + 1], self._multiple)
            self._alone[row] = self._run(copies)[0]
        return self._alone[row]


def _usable_rows(bundle: Bundle, lengths: tuple[int, ...]) -> Inputs | None:
    """Inputs of R rows that the network takes; None if it takes none of those tried."""
    signature = bundle.features.signature
    shape = (_NUM_SAMPLED, *signature.shape)
    choose = np.random.default_rng(0)
    golden = bundle.golden_inputs
    tries: list[Inputs] = []
    if lengths:
        lists = [name for name, field in signature.fields.items() if field.form == "list"]
        by_field = dict(zip(lists, lengths, strict=True))
        tries.append(example_rows.random(signature, choose, _NUM_SAMPLED, by_field))
    elif isinstance(golden, Record):
        tries.append(golden[:_NUM_SAMPLED])
    elif golden is not None:
        # Each input of a row comes from any of the golden rows, so there are many more rows and no
        # value that training has not seen.
        source = choose.integers(len(golden), size=shape)
        tries += [np.take_along_axis(golden, source, axis=0), golden[:_NUM_SAMPLED]]
    else:
        tries.append(example_rows.random(signature, choose, _NUM_SAMPLED))
    if not lengths:
        tries.append(example_rows.zeros(signature, _NUM_SAMPLED))
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
