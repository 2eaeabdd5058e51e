"""Points of a search space: domains inside sections, grids and points that are spread evenly."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from raydc.search.point import (
    SpreadPoints,
    all_domains,
    derive_seed,
    grid_points,
    has_inner_domains,
    locate,
    make_point,
    random_point,
    spread,
)
from raydc.spec.space import Domain

MODELS = [
    {"name": "mlp", "depth": {"choice": [1, 2, 3]}, "width": {"lograndint": [8, 65]}},
    {"name": "cnn", "channels": {"choice": [[8], [8, 16]]}},
    "linear",
]
SPACE = {
    "model": Domain(choice=MODELS),
    "train.learning_rate": Domain(loguniform=[1e-4, 1e-1]),
}


def is_of_space(point: dict[str, Any]) -> bool:
    model = point["model"]
    if model != "linear" and model["name"] == "mlp":
        fits = set(model) == {"name", "depth", "width"}
        return fits and model["depth"] in (1, 2, 3) and 8 <= model["width"] <= 64
    return model == "linear" or model in ({"name": "cnn", "channels": c} for c in ([8], [8, 16]))


def test_domain_inside_a_section_is_drawn_with_that_section_only() -> None:
    assert has_inner_domains(SPACE)
    assert [*all_domains(SPACE)] == [
        "model",
        "model[0].depth",
        "model[0].width",
        "model[1].channels",
        "train.learning_rate",
    ]
    asked: list[str] = []

    def choose(name: str, domain: Domain) -> Any:
        asked.append(name)
        return 1 if name == "model" else spread(domain, 0.0)

    point = make_point(SPACE, choose)
    assert asked == ["model", "model[1].channels", "train.learning_rate"]
    assert point == {
        "model": {"name": "cnn", "channels": [8]},
        "train.learning_rate": pytest.approx(1e-4),
    }
    assert not has_inner_domains({"model": Domain(choice=[{"name": "mlp", "depth": 2}])})


def test_random_and_spread_points_are_of_the_space_and_reach_all_of_it() -> None:
    points = SpreadPoints(SPACE, 5)
    for draw in (
        lambda number: random_point(SPACE, 5, number),
        lambda number: make_point(SPACE, points.choice(number)),
    ):
        drawn = [draw(number) for number in range(200)]
        assert all(map(is_of_space, drawn))
        assert {one["model"]["width"] for one in drawn if "width" in one["model"]} >= {8, 64}
        assert sum(one["model"] == "linear" for one in drawn) > 40
        assert all(1e-4 <= one["train.learning_rate"] <= 1e-1 for one in drawn)


def test_spread_points_do_not_depend_on_how_many_are_asked_for() -> None:
    points = SpreadPoints(SPACE, 5)
    drawn = [make_point(SPACE, points.choice(number)) for number in range(200)]
    for number in (0, 3, 63, 64, 199):
        alone = SpreadPoints(SPACE, 5)
        assert make_point(SPACE, alone.choice(number)) == drawn[number]
    other = SpreadPoints(SPACE, 6)
    assert make_point(SPACE, other.choice(0)) != drawn[0]


def test_spread_points_fill_a_range_more_evenly_than_random_ones() -> None:
    space = {"train.learning_rate": Domain(uniform=[0.0, 1.0])}
    points = SpreadPoints(space, 5)
    places = {
        int(16 * point) for n in range(16) for point in make_point(space, points.choice(n)).values()
    }
    assert len(places) == 16
    generator = random.Random(5)
    assert len({int(16 * generator.random()) for _ in range(16)}) < 16


def test_grid_has_each_combination_once_and_the_first_are_spread() -> None:
    space = {
        "model": Domain(choice=[MODELS[1], "linear"]),
        "train.global_batch_size": Domain(grid=[16, 32, 64]),
    }
    points = grid_points(space, 5)
    assert len(points) == 9 == space["model"].num_points * 3
    assert len({str(point) for point in points}) == 9
    assert points == grid_points(space, 5)
    assert points != grid_points(space, 6)
    assert len({str(point["model"]) for point in points[:3]}) > 1


def test_whole_numbers_include_the_low_end_and_not_the_high_one() -> None:
    for kind in ("randint", "lograndint"):
        domain = Domain.model_validate({kind: [1, 4]})
        found = [spread(domain, number / 999) for number in range(999)]
        assert set(found) == {1, 2, 3}
        assert found == sorted(found)
    assert found.count(1) > found.count(3)


def test_seeds_of_draws_differ() -> None:
    assert len({derive_seed(seed, number) for seed in range(20) for number in range(20)}) == 400


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"choice": [{"name": "mlp", "width": {"uniform": [2, 1]}}]}, r"\[0\]\.width: give \[low"),
        ({"choice": [1, {"a": {"choice": [{"loguniform": [0, 1]}]}}]}, r"range needs low > 0"),
        ({"lograndint": [0, 8]}, "a logarithmic range needs low > 0"),
        ({"randint": [1, 2.5]}, "both ends of a range of whole numbers are whole numbers"),
    ],
)
def test_mistake_in_a_domain_is_found_with_its_place(domain: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Domain.model_validate(domain)


def test_point_of_the_space_is_located_by_what_was_drawn() -> None:
    generator = random.Random(5)
    drawn: dict[str, Any] = {}

    def choose(name: str, domain: Domain) -> Any:
        drawn[name] = spread(domain, generator.random())
        return drawn[name]

    for _ in range(50):
        drawn.clear()
        point = make_point(SPACE, choose)
        assert locate(SPACE, point) == drawn


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"name": "mlp", "depth": 4, "width": 8}}, "model of {'name': 'mlp', "),
        ({"model": {"name": "mlp", "depth": 1}}, "model of {'name': 'mlp', 'depth': 1} is outside"),
        ({"model": {"name": "mlp", "depth": 1, "width": 8.0}}, "is outside"),
        ({"model": {"name": "mlp", "depth": True, "width": 8}}, "is outside"),
        ({"train.learning_rate": 0.5}, "train.learning_rate of 0.5 is outside"),
        ({"seed": 1}, "seed is not searched"),
    ],
)
def test_point_of_another_space_is_not_located(change: dict[str, Any], reason: str) -> None:
    point = {"model": "linear", "train.learning_rate": 0.01}
    assert locate(SPACE, point) == {"model": 2, "train.learning_rate": 0.01}
    assert reason in str(locate(SPACE, {**point, **change}))
    assert locate(SPACE, {"model": "linear"}) == "it has no train.learning_rate"
