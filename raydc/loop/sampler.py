"""Which rows occur how often in an epoch that is balanced by class, as a pure function.

An epoch is a list of draws, class by class, whose order is a permutation as in `raydc.order`. The
draws of a class walk through its rows, permuted in another way in each epoch, as many times as are
needed. So the row of any position follows from (seed, epoch, position) and the classes of all rows,
and a resume costs nothing. In memory are the rows sorted by class, 4 bytes for each (8 from 2**31
rows on), besides the 8 bytes of its target: the price of not being a function of a few integers.

Used in workers and in checks of them; needs numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydc import order
from raydc.order import Ids
from raydc.spec.sampling import Sampling


@dataclass(frozen=True)
class Sampler:
    """Draws rows by class.

    Attributes:
        seed: Seed of the run, from which the draws follow.
        by_class: Row ids, sorted by class.
        sizes: Number of rows of each class.
        draws: Number of rows to draw from each class in an epoch.
    """

    seed: int
    by_class: npt.NDArray[np.integer]
    sizes: Sequence[int]
    draws: Sequence[int]

    @property
    def num_draws(self) -> int:
        """Rows of an epoch, repeated ones counted each time."""
        return sum(self.draws)

    def rows(self, epoch: int, positions: Ids) -> Ids:
        """Row ids at some positions of an epoch.

        Args:
            epoch: Epoch, from 0.
            positions: int64 [B], each in [0, num_draws).
        """
        return self.rows_and_repeats(epoch, positions)[0]

    def rows_and_repeats(self, epoch: int, positions: Ids) -> tuple[Ids, Ids]:
        """Row ids at some positions of an epoch, and how often each row was drawn before.

        Args:
            epoch: Epoch, from 0.
            positions: int64 [B], each in [0, num_draws).

        Returns:
            int64 [B] each; the repeats of a row count from 0.
        """
        draws = order.permute(positions, self.num_draws, self.seed, epoch)
        ends, first_rows = np.cumsum(self.draws), np.cumsum([0, *self.sizes])
        classes = np.searchsorted(ends, draws, side="right")
        ids, repeats = np.empty((2, len(draws)), dtype=np.int64)
        for label in np.unique(classes).tolist():
            own = np.flatnonzero(classes == label)
            numbers = draws[own] - (ends[label] - self.draws[label])
            repeats[own], places = np.divmod(numbers, self.sizes[label])
            ids[own] = self.by_class[first_rows[label] + self._walk(label, epoch, places)]
        return ids, repeats

    def occurrences(self, epoch: int) -> Ids:
        """How often each row must occur in an epoch, int64 [N]; for checks, found class by class.

        Args:
            epoch: Epoch, from 0.
        """
        counts = np.zeros(len(self.by_class), dtype=np.int64)
        first = 0
        for label, (size, num_draws) in enumerate(zip(self.sizes, self.draws, strict=True)):
            if size:
                own = self.by_class[first : first + size]
                repeats, rest = divmod(num_draws, size)
                counts[own] = repeats
                counts[own[self._walk(label, epoch, np.arange(rest, dtype=np.int64))]] += 1
                first += size
        return counts

    def _walk(self, label: int, epoch: int, places: Ids) -> Ids:
        # A permutation of its own for each class, independent of that of the draws.
        digest = hashlib.blake2b(b"%d.%d" % (self.seed, label), digest_size=8).digest()
        return order.permute(places, self.sizes[label], int.from_bytes(digest, "little"), epoch)


def make_sampler(
    sampling: Sampling | None,
    seed: int,
    num_classes: int,
    read_targets: Callable[[], npt.NDArray[np.int64]],
) -> Sampler | None:
    """Makes the sampler of a spec.

    Args:
        sampling: Section `train.sampling`; None for every row once, which needs no sampler.
        seed: Seed of the run, from which the draws follow.
        num_classes: Number of classes of the target.
        read_targets: Returns the class positions of all training rows, int64 [N].
    """
    if sampling is None:
        return None
    targets = read_targets()
    sizes = np.bincount(targets, minlength=num_classes).tolist()
    present = [size for size in sizes if size]
    wanted = {
        "balanced": max(1, round(sum(present) / len(present))),
        "oversample": max(present),
        "undersample": min(present),
    }[sampling.name]
    draws = [min(wanted, int(sampling.max_repeats * size)) for size in sizes]
    dtype = np.int32 if len(targets) < 1 << 31 else np.int64
    return Sampler(seed, np.argsort(targets, kind="stable").astype(dtype), sizes, draws)
