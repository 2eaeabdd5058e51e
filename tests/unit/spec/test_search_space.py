"""What `validate` says about a search space and its algorithm, each mistake with its place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from raydc import spec as specs
from raydc.errors import SpecError

GOOD = """
name: swept
data: {source: rows, target: label, task: classification}
model: {name: mlp, depth: 1}
"""
OPTIMIZERS = ["adamw", {"name": "sgd", "momentum": {"uniform": [0.5, 0.9]}}]
MODELS = [{"name": "mlp", "depth": {"choice": [1, 2]}}, {"name": "linear"}]

FIFO: dict[str, Any] = {"scheduler": "fifo", "space": {"model.depth": {"choice": [1]}}}


def problems(sweep: dict[str, Any], **sections: Any) -> list[str]:
    """The problems of a spec, each as a message shows it."""
    text = GOOD + yaml.safe_dump(
        {"train": {"epochs": 3}, **sections, "sweep": sweep}, sort_keys=False, width=999
    )
    try:
        specs.loads(text)
    except SpecError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("search_alg", ["random", "quasi_random", "tpe", "gp", "cmaes"])
def test_sections_with_domains_inside_are_valid(search_alg: str) -> None:
    space = {"train.optimizer": {"choice": OPTIMIZERS}, "model": {"choice": MODELS}}
    assert problems({"space": space, "search_alg": search_alg}) == []


@pytest.mark.parametrize(
    ("sweep", "place", "message"),
    [
        (
            {"space": {"model": {"choice": [{"name": "mlp", "depth": {"choice": [1, 0]}}]}}},
            "space.model",
            "{'name': 'mlp', 'depth': 0} is not allowed there: input should be greater",
        ),
        (
            {"space": {"model": {"choice": [{"name": "mlp", "depth": {"randint": [3, 1]}}]}}},
            "space.model",
            "[0].depth: give [low, high] with low < high",
        ),
        (
            {
                "space": {
                    "train.optimizer.name": {"choice": ["sgd", "adam"]},
                    "train.optimizer.momentum": {"choice": [0.0, 0.9]},
                }
            },
            "space.train.optimizer.momentum",
            "0.9 is not allowed with train.optimizer.name: 'adam': momentum and nesterov are for "
            "sgd, not for adam; search the section of both with choice",
        ),
        (
            {"space": {"model.depth": {"grid": [1, 2]}, "train.optimizer": {"choice": OPTIMIZERS}}},
            "space.model.depth",
            "beside domains inside of sections a grid is not laid out; use choice here",
        ),
        (
            {"space": {"model.depth": {"choice": [1, 2]}, "model": {"choice": MODELS}}},
            "space.model.depth",
            "it is a part of model, which is searched too; put this domain inside of it",
        ),
        (
            {"space": {"model.depth": {"randint": [1, float("inf")]}}},
            "space.model.depth.randint",
            "both ends of a range, and the distance between them, are finite numbers",
        ),
        (
            {"space": {"model.depth": {"randint": [1, 2.5]}}},
            "space.model.depth.randint",
            "both ends of a range of whole numbers are whole numbers",
        ),
        (
            {"search_alg": "grid", "space": {"train.learning_rate": {"uniform": [0.1, 1]}}},
            "space.train.learning_rate",
            "search_alg: grid needs values, and uniform has none; use choice",
        ),
        (
            {"search_alg": "grid", "space": {"train.optimizer": {"choice": OPTIMIZERS}}},
            "space.train.optimizer",
            "search_alg: grid needs values, and uniform has none",
        ),
        (
            {"search_alg": "tpe", "space": {"model.depth": {"grid": [1, 2]}}},
            "space.model.depth",
            "search_alg: tpe draws a choice; use choice here",
        ),
        (
            {"space": {"model": {"choice": [{"name": "mlp", "depth": {"grid": [1, 2]}}]}}},
            "space.model",
            "search_alg: random draws a choice; use choice here",
        ),
        (
            {
                "search_alg": "grid",
                "space": {
                    "seed": {"choice": list(range(400))},
                    "model.width": {"choice": list(range(1, 301))},
                },
            },
            "space.seed",
            "the grid has 120,000 points, more than 100,000; use quasi_random",
        ),
        (
            {"search_alg": "bayes", "space": {"model.depth": {"choice": [1]}}},
            "search_alg",
            "input should be 'random', 'grid', 'quasi_random', 'tpe', 'gp', 'cmaes' or 'nsga2'",
        ),
        (
            {"num_samples": 10**9, "space": {"model.depth": {"choice": [1]}}},
            "num_samples",
            "input should be less than or equal to 100000, not 1000000000",
        ),
        (
            {"search_alg": "tpe", "lag": 0, "space": {"model.depth": {"choice": [1]}}},
            "lag",
            "input should be greater than or equal to 1, not 0",
        ),
        (
            {"search_alg": "quasi_random", "lag": 2, "space": {"model.depth": {"choice": [1]}}},
            "lag",
            "it is for tpe, gp, cmaes, nsga2, not for search_alg: quasi_random",
        ),
        (
            {"warm_start": ["older"], "space": {"model.depth": {"choice": [1]}}},
            "warm_start",
            "it is for tpe, gp, cmaes, nsga2, not for search_alg: random",
        ),
        (
            {"objectives": ["parameters"], "space": {"model.depth": {"choice": [1]}}},
            "objectives",
            "scheduler: asha stops trials by train.metric alone",
        ),
        (
            {**FIFO, "objectives": ["parameters", "parameters"]},
            "objectives",
            "names one cost twice",
        ),
        (
            {**FIFO, "objectives": ["parameters"], "search_alg": "cmaes"},
            "objectives",
            "search_alg: cmaes has one objective; use nsga2, tpe or gp",
        ),
        (
            {**FIFO, "constraints": {"parameters": 9}, "search_alg": "tpe", "warm_start": ["a"]},
            "warm_start",
            "earlier results have no costs",
        ),
        ({**FIFO, "objectives": ["flops"]}, "objectives.0", "'parameters' or 'latency_ms'"),
        ({**FIFO, "constraints": {"parameters": 0}}, "constraints.parameters", "greater than 0"),
        ({**FIFO, "constraints": {"latency_ms": math.inf}}, "constraints.latency_ms", "finite"),
        ({**FIFO, "latency_rows": 8}, "latency_rows", "neither objectives nor constraints name"),
    ],
)
def test_mistake_in_a_sweep_is_said_with_its_place(
    sweep: dict[str, Any], place: str, message: str
) -> None:
    [problem] = problems(sweep, train={"optimizer": "sgd"})
    where, _, rest = problem.partition(f": sweep.{place}: ")
    assert where.startswith("spec.yaml:")
    assert message in rest


def test_momentum_is_searched_if_all_optimisers_of_the_space_have_it() -> None:
    space = {"train.optimizer.momentum": {"uniform": [0.0, 0.9]}}
    assert problems({"space": space})
    assert problems({"space": space}, train={"optimizer": "sgd"}) == []
