"""What the models of trials cost whoever uses them: parameters, and the time of a forward pass.

Runs in the driver. A cost follows from the network alone, so it is known before a trial trains, and
points that differ in their training only are measured once.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from raydc.bundle import Bundle
from raydc.bundle.padding import store_by_input
from raydc.data.prepared import Prepared
from raydc.errors import RaydcError, UsageError
from raydc.features import example_rows
from raydc.models import networks
from raydc.models.network_parts import Network
from raydc.search.goals import goals_of
from raydc.spec import ResolvedSpec
from raydc.spec.sections import Serve
from raydc.spec.sweep_section import LATENCY, format_cost
from raydc.storage import Storage, canonical_json, sha256
from raydc.tracking import trials

# Of the medians of some runs the smallest counts: what else the machine does only makes it slower.
_NUM_RUNS, _PASSES_PER_RUN, _WARM_UP_PASSES = 5, 11, 3


class TrialCosts:
    """Counts and measures what the goals of a sweep name.

    A latency is that of a pass through `Bundle.forward`, with the threads, the device and the
    padding of a replica, on the machine of the driver. It is kept in `latency/` of the folder, and
    a sweep that continues reads it there.

    Args:
        spec: The resolved spec of the sweep.
        data: The prepared data set, whose features the networks take.
        folder: Folder of the sweep.

    Attributes:
        goals: What the sweep wants beside a good metric.

    Raises:
        UsageError: A latency is wanted of a replica with a GPU, and there is none here.
    """

    def __init__(self, spec: ResolvedSpec, data: Prepared, folder: Storage) -> None:
        assert spec.sweep is not None
        self.goals = goals_of(spec.sweep)
        self._spec, self._data, self._folder = spec, data, folder / "latency"
        self._num_rows = spec.sweep.latency_rows
        self._device = "cuda" if _asks_for_gpu(spec) else "cpu"
        if LATENCY in self.goals.costs and self._device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                f"sweep: {LATENCY} is that of a replica with a GPU, and this machine has none",
                "Run the sweep on a machine with one, or leave the latency out.",
            )
        self._known: dict[str, dict[str, float]] = {}

    def of(self, values: dict[str, Any]) -> dict[str, float]:
        """What a trial costs; empty for a network that cannot be built.

        Of one with too many parameters no latency is measured: it is not trained anyway, and may be
        slow.

        Args:
            values: Searched values by spec path.
        """
        if not self.goals.costs:
            return {}
        own = trials.trial_spec(self._spec, values)
        key = self._key(own)
        if key not in self._known:
            try:
                self._known[key] = self._measure(own, key)
            # The trial itself says why, when it is its turn.
            except RaydcError:
                self._known[key] = {}
        return self._known[key]

    def describe_excess(self, values: dict[str, Any]) -> str | None:
        """Says what of a trial is above its limit; None for one that may be trained.

        Args:
            values: Searched values by spec path.
        """
        costs = self.of(values) if self.goals.constraints else {}
        above = self.goals.excess(costs) if costs else {}
        if not above:
            return None
        parts = [
            f"{name} {format_cost(cost)}, of at most {format_cost(self.goals.constraints[name])}"
            for name, cost in above.items()
        ]
        return f"{trials.INFEASIBLE}: {'; '.join(parts)}"

    def _key(self, own: ResolvedSpec) -> str:
        """Names what a latency depends on: the network, its inputs, and the rows of a pass."""
        section = own.model.model_dump(mode="json")
        given = [section, self._data.data_hash, self._num_rows, self._device, self._num_threads]
        return sha256(canonical_json(given))[:16]

    @property
    def _num_threads(self) -> int:
        return (self._spec.serve or Serve()).num_threads

    def _measure(self, own: ResolvedSpec, key: str) -> dict[str, float]:
        network = self._build(own)
        counted = sum(one.numel() for one in network.parameters())
        found: dict[str, float] = {name: counted for name in self.goals.costs if name != LATENCY}
        if LATENCY not in self.goals.costs or self.goals.excess(found):
            return found
        record = f"{key}.json"
        if not self._folder.exists(record):
            measured = {LATENCY: self._time(network, own), "rows": self._num_rows}
            self._folder.write_json(record, {**measured, "device": self._device})
        timed = float(self._folder.read_json(record)[LATENCY])
        # In the order of the goals, which is that of the columns.
        return {name: timed if name == LATENCY else found[name] for name in self.goals.costs}

    def _build(self, own: ResolvedSpec) -> Network:
        """The network of a trial with random weights, on which no cost depends."""
        section = own.model.without_weights()
        return networks.build(section, self._data.features.signature, own.seed)

    def _time(self, network: Network, own: ResolvedSpec) -> float:
        """Milliseconds of a pass as a replica makes it."""
        store_by_input(network)
        serve = self._spec.serve or Serve()
        served = Bundle(
            model=network.eval().to(self._device),
            features=self._data.features,
            spec=own,
            facts={},
            golden={"rows": []},
            digest="",
            device=self._device,
            num_threads=self._num_threads,
            max_rows=max(self._num_rows, serve.max_batch_size),
        )
        # The slowest rows that there may be: a limit on the time holds for all others.
        rows = example_rows.zeros(served.features.signature, self._num_rows, has_longest=True)
        # The first passes find the sizes of `padding`, and choose kernels.
        for _ in range(_WARM_UP_PASSES):
            served.forward(rows)
        medians = [
            statistics.median(_time_pass(served, rows) for _ in range(_PASSES_PER_RUN))
            for _ in range(_NUM_RUNS)
        ]
        return round(min(medians), 4)


def _asks_for_gpu(spec: ResolvedSpec) -> bool:
    return bool((spec.serve or Serve()).ray_actor_options.get("num_gpus", 0) > 0)


def _time_pass(served: Bundle, rows: Any) -> float:
    since_s = time.perf_counter()
    # It waits for the device: its outputs are arrays.
    served.forward(rows)
    return 1000.0 * (time.perf_counter() - since_s)
