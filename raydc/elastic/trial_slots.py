"""The slots of a cluster for the workers of trials, and what a trial asks Ray for.

Runs in the driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray

from raydc import plan
from raydc.elastic import mailbox
from raydc.elastic.crews import Standing

_COUNT_EVERY_S = 2.0


def trial_resources(needs: Mapping[str, float], least: int) -> Callable[[dict[str, Any]], Any]:
    """What Tune reserves for a segment: a bundle for each worker of a trial, one for a helper.

    Tune gets all of a trial's bundles at once or none, on one node or on several, so that trials
    which have a part of their workers never wait for each other.

    Args:
        needs: Ray resources of one worker.
        least: Workers that a trial always has.
    """
    from ray import tune

    def of_segment(config: dict[str, Any]) -> Any:
        number = 1 if "helper" in config["segment"] else least
        return tune.PlacementGroupFactory([dict(needs) for _ in range(number)])

    return of_segment


class Slots:
    """Counts the workers that the cluster has room for, whether they run or not.

    Args:
        needs: Ray resources of one worker.
    """

    def __init__(self, needs: Mapping[str, float]) -> None:
        self._needs = needs
        self._counted_s = -_COUNT_EVERY_S
        self._number = 0

    def count(self) -> int:
        """The number, which changes with the nodes; it is up to two seconds old."""
        if time.monotonic() - self._counted_s >= _COUNT_EVERY_S:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._number = plan.count_placeable(self._needs, nodes)
            self._counted_s = time.monotonic()
        return self._number


class CrewMailbox:
    """What the driver tells the mailbox of a sweep about its helpers.

    Args:
        handle: The mailbox.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def standing(self) -> tuple[float, dict[str, Standing], list[str]]:
        """As `Crews.standing`; nothing is known if the mailbox does not answer."""
        try:
            found: tuple[float, dict[str, Standing], list[str]] = mailbox.get_reply(
                self._handle.of_crews.remote("standing")
            )
        except ray.exceptions.RayError:
            return 0.0, {}, []
        return found

    def assign(self, helper: str, task: dict[str, Any]) -> None:
        """As `Crews.assign`."""
        self._handle.of_crews.remote("assign", helper, task)

    def release(self, helpers: Iterable[str]) -> None:
        """As `Crews.release`."""
        self._handle.of_crews.remote("release", list(helpers))

    def withdraw(self, helper: str) -> None:
        """As `Crews.withdraw`."""
        self._handle.of_crews.remote("withdraw", helper)
