"""What a plan promises of a sweep, and what Ray then does: planned trials start, and no others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from placed_cases import cases, place
from placed_on_ray import start_trials
from ray.cluster_utils import Cluster

from raydc import engine, plan
from raydc import spec as specs
from raydc.errors import ClusterError

_TIMEOUT_S = 3.0
_SPEC = "name: p\ndata: {source: a.csv}\nmodel: {name: linear}\n"


def num_planned(nodes: list[dict[str, float]], needs: dict[str, float], workers: int) -> int:
    """Trials at a time, by the plan of a sweep; 0 if it is refused."""
    total = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    space = {"train.learning_rate": {"uniform": [0.1, 1.0]}}
    scaling = {"num_workers": workers, "resources_per_worker": needs, "use_gpu": False}
    overrides = [f"sweep={json.dumps({'space': space})}", f"scaling={json.dumps(scaling)}"]
    given = specs.resolve(specs.loads(_SPEC, overrides=overrides))
    # A CPU is left for what follows the sweep.
    with_one = [*nodes, {"CPU": 1.0}] if "CPU" not in needs else nodes
    try:
        return plan.make(given, {"CPU": 1.0, **total}, nodes=with_one).num_concurrent_trials
    except ClusterError:
        return 0


@pytest.mark.parametrize(("workers", "trials"), [(1, 4), (1, 5), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_planned_trials_start_and_refused_ones_wait_on_one_node(
    ray_engine: engine.Engine, workers: int, trials: int
) -> None:
    needs, nodes = {"CPU": 1.0}, [{"CPU": 4.0}]
    can_start = place(needs, [dict(node) for node in nodes], workers * trials)
    assert (num_planned(nodes, needs, workers) >= trials) == can_start
    assert start_trials(needs, workers, trials, _TIMEOUT_S) == can_start


@pytest.mark.soak
def test_thirty_clusters_start_what_is_planned_and_hang_with_what_is_refused() -> None:
    """A node of Ray stands for a node of each case: it has resources under names of the case."""

    def named(case: int, amounts: dict[str, float]) -> dict[str, float]:
        return {f"c{case}_{name}": amount for name, amount in amounts.items()}

    drawn = cases()
    most = max(len(nodes) for nodes, *_ in drawn)
    cluster = Cluster()
    try:
        for index in range(most):
            resources = {
                name: amount
                for case, (nodes, *_) in enumerate(drawn)
                if index < len(nodes)
                for name, amount in named(case, nodes[index]).items()
            }
            cluster.add_node(num_cpus=1, resources=resources)
        asked: list[Any] = []
        expected = []
        for case, (nodes, needs, workers, trials) in enumerate(drawn):
            own_nodes, own = [named(case, node) for node in nodes], named(case, needs)
            can_start = place(own, [dict(node) for node in own_nodes], workers * trials)
            assert (num_planned(own_nodes, own, workers) >= trials) == can_start
            asked.append((own, workers, trials))
            expected.append(can_start)
        assert 5 <= sum(expected) <= 25
        script = Path(__file__).parents[1] / "placed_on_ray.py"
        arguments = [cluster.address, json.dumps(asked), str(_TIMEOUT_S)]
        done = subprocess.run(
            [sys.executable, str(script), *arguments], check=True, capture_output=True, text=True
        )
        assert json.loads(done.stdout) == expected
    finally:
        cluster.shutdown()
