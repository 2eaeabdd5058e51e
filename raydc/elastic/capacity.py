"""How many workers fit where, and when a run takes another size. Pure: it asks nobody and starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydc import plan


@dataclass(frozen=True)
class Node:
    """A node of the cluster at one moment.

    Attributes:
        node_id: Ray's.
        free: Amounts by resource that nobody holds.
        answers: Whether it takes a connection.
        drains_at_s: When it goes (Unix time), 0 where that is not known, None where it stays.
        address: host:port of its raylet.
    """

    node_id: str
    free: Mapping[str, float]
    answers: bool = True
    drains_at_s: float | None = None
    address: str = ""

    @property
    def usable(self) -> bool:
        """Whether workers can be started on it."""
        return self.answers and self.drains_at_s is None


def room(
    nodes: Sequence[Node], needs: Mapping[str, float], held: Mapping[str, int]
) -> dict[str, int]:
    """How many workers each usable node can hold.

    What other actors and tasks hold does not count; what the run's own workers hold does, because they make room for
    those that follow them.

    Args:
        nodes: Of the cluster.
        needs: Resources of one worker.
        held: Workers of this run that still have their resources, by node.

    Returns:
        Workers by node id; nodes without room for one are left out.
    """
    fits = {}
    for node in nodes:
        own = held.get(node.node_id, 0)
        free = {name: node.free.get(name, 0.0) + own * amount for name, amount in needs.items()}
        if node.usable and (count := plan.how_many(needs, free)):
            fits[node.node_id] = count
    return fits


@dataclass
class Size:
    """The number of workers of a run, as far as it may choose.

    A number that could not be started is not tried again for a while, so that two that want the same room do not
    wait for each other for ever. A run grows when the room for it has been there for `settle_s`: nodes that come
    together cost one restart.

    Attributes:
        least: Fewest workers.
        most: Most workers.
        settle_s: How long there must be room before a run grows.
        retry_after_s: How long a number that could not be started is left alone.
    """

    least: int
    most: int
    settle_s: float
    retry_after_s: float
    _too_many: int | None = field(default=None, init=False)
    _until_s: float = field(default=0.0, init=False)
    _larger_since_s: float | None = field(default=None, init=False)

    def to_start(self, fits: int, now_s: float) -> int | None:
        """How many workers to start where `fits` have room, or None: too few."""
        return num if (num := min(fits, self._limit(now_s))) >= self.least else None

    def not_started(self, num_workers: int, now_s: float) -> None:
        """So many could not be started, though there seemed to be room."""
        self._too_many, self._until_s = num_workers, now_s + self.retry_after_s

    def grows_to(self, num_workers: int, fits: int, now_s: float) -> int | None:
        """The number that a running group of `num_workers` should grow to now, or None."""
        larger = min(fits, self._limit(now_s))
        if larger <= num_workers:
            self._larger_since_s = None
            return None
        self._larger_since_s = now_s if self._larger_since_s is None else self._larger_since_s
        return larger if now_s - self._larger_since_s >= self.settle_s else None

    def _limit(self, now_s: float) -> int:
        if self._too_many is None or now_s >= self._until_s:
            return self.most
        return max(self.least, min(self.most, self._too_many - 1))


def leaves_now(
    fits_elsewhere: int, least: int, deadline_s: float | None, now_s: float, margin_s: float
) -> bool:
    """Whether a run leaves nodes that are about to go: as soon as it can go on elsewhere, or when time runs out.

    Args:
        fits_elsewhere: Workers that other nodes have room for.
        least: Fewest workers of the run.
        deadline_s: When the first of the nodes goes, or None: not known.
        now_s: On the same clock.
        margin_s: What a checkpoint may take.
    """
    return fits_elsewhere >= least or deadline_s is None or deadline_s - now_s <= margin_s
