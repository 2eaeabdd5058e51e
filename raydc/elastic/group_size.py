"""How many workers fit on which nodes, and when a run changes its size.

Pure integer arithmetic, used by the scaling policy in the controller actor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydc import plan


@dataclass(frozen=True)
class Node:
    """A node of the cluster at one moment.

    Attributes:
        node_id: Ray's id.
        free: Unused amount of each resource.
        responds: Whether its raylet accepts a connection.
        drains_at_s: Unix time at which it leaves: 0 if unknown, None if it stays.
        address: host:port of its raylet.
    """

    node_id: str
    free: Mapping[str, float]
    responds: bool = True
    drains_at_s: float | None = None
    address: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether workers may be started on it."""
        return self.responds and self.drains_at_s is None


def room_by_node(
    nodes: Sequence[Node], needs: Mapping[str, float], held: Mapping[str, int]
) -> dict[str, int]:
    """Counts the workers that each usable node can hold.

    Resources of the run's own workers count as free, because these workers make room for their
    successors; resources of other actors and tasks do not.

    Args:
        nodes: All nodes, usable or not, with what is free on each.
        needs: Resources of one worker.
        held: Workers of this run that still hold their resources, by node id.

    Returns:
        Workers by node id, without nodes that have no room.
    """
    fits = {}
    for node in nodes:
        own = held.get(node.node_id, 0)
        free = {name: node.free.get(name, 0.0) + own * amount for name, amount in needs.items()}
        if node.is_usable and (count := plan.how_many(needs, free)):
            fits[node.node_id] = count
    return fits


@dataclass
class GroupSize:
    """Chooses the number of workers of a run within its limits.

    A size that could not be started is avoided for a while: two runs that want the same room would
    otherwise wait for each other forever. A run grows only once there has been room for `settle_s`,
    so that nodes that arrive together cost one restart.

    Attributes:
        least: Minimum number of workers, `scaling.min_workers`.
        most: Maximum number of workers, `scaling.max_workers`.
        settle_s: How long there must be room before a run grows.
        retry_after_s: How long a size that could not be started is avoided.
    """

    least: int
    most: int
    settle_s: float
    retry_after_s: float
    _too_many: int | None = field(default=None, init=False)
    _avoided_until_s: float = field(default=0.0, init=False)
    _larger_since_s: float | None = field(default=None, init=False)

    def choose_start(self, fits: int, now_s: float) -> int | None:
        """Chooses how many workers to start.

        Args:
            fits: Workers that there is room for.
            now_s: Current time of a monotonic clock.

        Returns:
            Number of workers, or None if there is room for too few.
        """
        return num if (num := min(fits, self._limit(now_s))) >= self.least else None

    def avoid(self, num_workers: int, now_s: float) -> None:
        """Notes that a size could not be started although there seemed to be room for it.

        Args:
            num_workers: Size that failed; until `retry_after_s` has passed, only less is tried.
            now_s: Current time of a monotonic clock.
        """
        self._too_many, self._avoided_until_s = num_workers, now_s + self.retry_after_s

    def choose_growth(self, num_workers: int, fits: int, now_s: float) -> int | None:
        """Chooses the size that a running group should grow to now; called at every probe.

        Args:
            num_workers: Size of the running group.
            fits: Workers that there is room for, the running ones included.
            now_s: Current time of a monotonic clock.

        Returns:
            The larger size, or None to stay.
        """
        larger = min(fits, self._limit(now_s))
        if larger <= num_workers:
            # One probe without room restarts the wait: room that comes and goes is used by others.
            self._larger_since_s = None
            return None
        self._larger_since_s = now_s if self._larger_since_s is None else self._larger_since_s
        return larger if now_s - self._larger_since_s >= self.settle_s else None

    def _limit(self, now_s: float) -> int:
        if self._too_many is None or now_s >= self._avoided_until_s:
            return self.most
        # Never below `least`: with a fixed size there is nothing smaller to try.
        return max(self.least, min(self.most, self._too_many - 1))


def should_leave(
    fits_elsewhere: int, least: int, deadline_s: float | None, now_s: float, margin_s: float
) -> bool:
    """Whether a run should leave nodes that drain: once it fits elsewhere, or time runs out.

    Args:
        fits_elsewhere: Workers that other nodes have room for.
        least: Minimum number of workers of the run.
        deadline_s: When the first of the nodes leaves; None if unknown.
        now_s: Time on the same clock as the deadline.
        margin_s: How long a checkpoint may take.
    """
    return fits_elsewhere >= least or deadline_s is None or deadline_s - now_s <= margin_s
