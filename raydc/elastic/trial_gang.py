"""The other workers that a trial always has: actors in the bundles of its placement group.

Runs in Tune's actors. Tune reserves all bundles of a trial at once or none, so that no two trials
wait for each other's half. The actors stay with the actor of the trial, which Tune uses again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
# By the id of the placement group of this process; there is one at a time.
_kept: dict[str, list[Any]] = {}


class GangWorker:
    """State of the actor: nothing; it trains with the leader of one trial after the other."""

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in this process, and returns its result."""
        return work(*arguments)


def start(number: int) -> list[Any]:
    """The actors of this process's placement group besides this one, which is in bundle 0.

    Args:
        number: How many there are, one for each other bundle.
    """
    group = ray.util.get_current_placement_group()
    name = group.id.hex()
    if name not in _kept:
        _kept.clear()
        _kept[name] = [_start_one(group, 1 + index) for index in range(number)]
    return list(_kept[name])


def _start_one(group: Any, bundle: int) -> Any:
    needs = group.bundle_specs[bundle]
    options = {_NAMES[name]: amount for name, amount in needs.items() if name in _NAMES}
    others = {name: amount for name, amount in needs.items() if name not in _NAMES}
    there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    actor = ray.remote(GangWorker).options(
        **{"num_cpus": 0, **options}, resources=others, scheduling_strategy=there
    )
    return actor.remote()
