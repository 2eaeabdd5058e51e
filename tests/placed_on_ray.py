"""Reserves what trials ask Ray for, as Ray Tune does, on the Ray at an address.

A process of its own: it reads a JSON list of cases from the command line, and writes a JSON list of
booleans, whether all trials of a case have got their places.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydc.elastic.trial_gang import GangWorker
from raydc.elastic.trial_slots import trial_resources

_START_TIMEOUT_S = 60.0


def start_trials(needs: dict[str, float], workers: int, trials: int, timeout_s: float) -> bool:
    """Whether some trials get the places of all their workers at once.

    Args:
        needs: Ray resources of one worker.
        workers: Workers of a trial.
        trials: Number of trials.
        timeout_s: How long the last of them waits.
    """
    ask = trial_resources(needs, workers)({"segment": {}})
    groups = [ask.to_placement_group() for _ in range(trials)]
    try:
        if not all(group.wait(timeout_s) for group in groups):
            return False
        # A worker starts in each place.
        started = [_start(group, index) for group in groups for index in range(workers)]
        ray.get(started, timeout=_START_TIMEOUT_S)
        return True
    finally:
        for group in groups:
            ray.util.remove_placement_group(group)


def _start(group: Any, bundle: int) -> Any:
    there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    worker = ray.remote(GangWorker).options(num_cpus=0, scheduling_strategy=there).remote()
    return worker.run.remote(list)


def main() -> None:
    address, cases, timeout_s = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
    ray.init(address, log_to_driver=False, logging_level="warning")
    json.dump([start_trials(*case, timeout_s) for case in cases], sys.stdout)


if __name__ == "__main__":
    main()
