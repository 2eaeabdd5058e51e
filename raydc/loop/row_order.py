"""Which rows each step of an epoch has, with sampling and grouping. Pure; in workers and in checks.

Without either it equals `order.batch_rows`, computed for many steps at once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydc import order
from raydc.errors import Problem, SpecError
from raydc.features import Signature
from raydc.loop.sampler import Sampler
from raydc.order import Ids
from raydc.spec.resolved import ResolvedTrain

# One call of `order.permute` has a fixed cost of some dozen numpy calls; 32 steps share it.
_STEPS_AT_ONCE = 32
# Steps whose rows are sorted together, as many as transformers takes. More make batches that are
# more alike, and less random. A change of this or of a rule here changes the result of every run.
POOL_STEPS = 50
# No data set has as many rows as this many bits count.
_REPEAT_SHIFT = 40


@dataclass(frozen=True)
class LengthGroups:
    """Puts rows of similar length into one step.

    The rows of `POOL_STEPS` neighbouring steps are sorted by length and cut into steps, whose order
    is drawn. It is the method of transformers (`group_by_length`), as a function of (seed, epoch,
    step). Every row stays in its pool, so every row still occurs once in an epoch.

    Attributes:
        lengths: Items of each training row, [N].
        num_shards: Logical shards of a step. Each gets neighbours in length.
    """

    lengths: npt.NDArray[np.int32]
    num_shards: int

    def deal(self, ids: Ids, batch_size: int, seed: int, epoch: int, pool: int) -> list[Ids]:
        """Deals the rows of a pool to its steps.

        Args:
            ids: int64 [P], row ids of the pool in the order that was drawn.
            batch_size: Rows of a full step.
            seed: Seed of the run.
            epoch: Epoch, from 0.
            pool: Number of the pool in its epoch, from 0.

        Returns:
            Positions in `ids` for each step. Only the last step may have fewer rows.
        """
        # Rows of one length stay in the order that was drawn.
        places = np.argsort(self.lengths[ids], kind="stable")
        digest = hashlib.blake2b(b"length.%d.%d.%d" % (seed, epoch, pool), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        num_full, num_left = divmod(len(places), batch_size)
        last = []
        if num_left:
            # Cut out of a place that is drawn: else the last step would always have the longest.
            cut = key % (num_full + 1) * batch_size
            last = [places[cut : cut + num_left]]
            places = np.delete(places, slice(cut, cut + num_left))
        steps = list(places.reshape(num_full, batch_size))
        numbers = np.arange(num_full, dtype=np.int64)
        drawn = order.permute(numbers, num_full, key, epoch).tolist() if num_full else []
        return [self._spread(step) for step in [*(steps[number] for number in drawn), *last]]

    def _spread(self, places: Ids) -> Ids:
        """Gives each logical shard neighbours in length, and each worker as much as the others.

        A worker computes contiguous shards. If they had ascending lengths, the last worker would
        compute the longest rows of each step. So neighbours go to shards that are far apart, in the
        order of van der Corput, which is even in each contiguous part.

        Args:
            places: Rows of a step, by ascending length.
        """
        cuts = order.logical_shards(len(places), self.num_shards)
        visits = sorted(range(self.num_shards), key=_mirrored)
        # Shards differ by a row in size, and keep their own size.
        ends = list(itertools.accumulate(cuts[shard].stop - cuts[shard].start for shard in visits))
        parts = dict(zip(visits, np.split(places, ends[:-1]), strict=True))
        return np.concatenate([parts[shard] for shard in range(self.num_shards)])


def make_groups(
    train: ResolvedTrain, signature: Signature, read_lengths: Callable[[], npt.NDArray[np.int32]]
) -> LengthGroups | None:
    """Makes the groups of a spec; None for steps of any lengths.

    Args:
        train: Section `train` of a resolved spec.
        signature: Signature of the rows.
        read_lengths: Returns the items of each training row, [N].

    Raises:
        SpecError: The rows have one length.
    """
    check_groups(train, signature)
    if not train.group_by_length:
        return None
    return LengthGroups(read_lengths(), train.logical_shards)


def check_groups(train: ResolvedTrain, signature: Signature) -> None:
    """Raises SpecError if rows are grouped by length, and all have one length.

    Args:
        train: Section `train` of a resolved spec.
        signature: Signature of the rows.
    """
    if train.group_by_length and not signature.has_lists:
        message = "it is for texts and lists, and all rows of this data set have one length"
        raise SpecError([Problem("", "train.group_by_length", f"{message}; leave it out")])


def _mirrored(number: int) -> float:
    """The bits of a number behind the point, in reverse (van der Corput, 1935)."""
    return sum(2.0 ** -(1 + place) for place in range(number.bit_length()) if number >> place & 1)


@dataclass(frozen=True)
class RowOrder:
    """The rows of each step.

    Attributes:
        seed: Seed of the run.
        num_rows: Rows of the data set.
        batch_size: Rows of a full step, over all workers.
        sampler: Draws rows by class; None takes every row once in an epoch.
        groups: Puts rows of similar length into one step; None leaves them as they are drawn.
    """

    seed: int
    num_rows: int
    batch_size: int
    sampler: Sampler | None = None
    groups: LengthGroups | None = None

    @property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch, repeated ones counted each time."""
        return self.num_rows if self.sampler is None else self.sampler.num_draws

    def steps(self, epoch: int, start: int, stop: int) -> Iterator[tuple[Ids, Ids]]:
        """Yields row ids of each step, and the keys from which changes of the rows are drawn.

        Args:
            epoch: Epoch, from 0.
            start: First step, counted inside the epoch from 0.
            stop: End of the steps, exclusive.
        """
        if self.groups is None:
            for first in range(start, stop, _STEPS_AT_ONCE):
                ids, keys = self._draw(epoch, first, min(first + _STEPS_AT_ONCE, stop))
                for offset in range(0, len(ids), self.batch_size):
                    rows = slice(offset, offset + self.batch_size)
                    yield ids[rows], keys[rows]
            return
        for pool in range(start // POOL_STEPS, -(-stop // POOL_STEPS)):
            # A pool is drawn as a whole, wherever the steps begin.
            first = pool * POOL_STEPS
            ids, keys = self._draw(epoch, first, first + POOL_STEPS)
            dealt = self.groups.deal(ids, self.batch_size, self.seed, epoch, pool)
            for step, places in enumerate(dealt, start=first):
                if start <= step < stop:
                    yield ids[places], keys[places]

    def rows(self, epoch: int, step: int) -> Ids:
        """Row ids of one step.

        Args:
            epoch: Epoch, from 0.
            step: Step inside the epoch, from 0.
        """
        ((ids, _),) = self.steps(epoch, step, step + 1)
        return ids

    def _draw(self, epoch: int, start: int, stop: int) -> tuple[Ids, Ids]:
        """Row ids and keys of some steps, one after the other, up to the end of the epoch."""
        low, high = start * self.batch_size, min(stop * self.batch_size, self.rows_per_epoch)
        positions = np.arange(low, high, dtype=np.int64)
        if self.sampler is None:
            ids = order.permute(positions, self.num_rows, self.seed, epoch)
            return ids, ids
        ids, repeats = self.sampler.rows_and_repeats(epoch, positions)
        # A row that occurs again in an epoch is changed differently.
        return ids, ids + (repeats << _REPEAT_SHIFT)
