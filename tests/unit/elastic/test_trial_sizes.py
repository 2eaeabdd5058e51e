"""Networks of the points of a sweep, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import training_spec

from raydc.elastic import trial_sizes
from raydc.elastic.trial_sizes import count_parameters, describe_points
from raydc.errors import SpecError
from raydc.spec.model import Linear, Mlp


def described(folder: Path, space: dict[str, Any], **sweep: Any) -> list[str]:
    given = {"space": space, "search_alg": "grid", "num_samples": 64, **sweep}
    model = {"name": "mlp", "depth": 2, "width": 8}
    return describe_points(training_spec(str(folder), model=model, sweep=given))


def test_parameters_that_follow_from_the_data_are_left_out() -> None:
    # 8 biases of the first layer, whose weights follow from the rows; all of the second.
    assert count_parameters(Mlp(name="mlp", hidden=[8, 4])) == 8 + (8 * 4 + 4)
    assert count_parameters(Linear(name="linear")) == 0


def test_plan_of_a_sweep_says_the_sizes_of_its_networks(tmp_path: Path) -> None:
    space = {
        "model.width": {"choice": [8, 16]},
        "train.learning_rate": {"choice": [0.1, 0.01, 0.001]},
    }
    sizes = [width + width * width + width for width in (8, 16)]
    assert described(tmp_path, space) == [
        f"2 networks of {sizes[0]:,} to {sizes[1]:,} parameters, without those that follow from "
        "the data"
    ]
    [line] = described(tmp_path, {"train.learning_rate": space["train.learning_rate"]})
    assert line.startswith(f"1 networks of {sizes[0]:,} parameters")


def test_plan_says_how_many_points_follow_from_results(tmp_path: Path) -> None:
    space = {"model.width": {"choice": [8, 16]}}
    lines = described(tmp_path, space, search_alg="tpe", num_samples=20, lag=4)
    assert lines[1] == (
        "the points of the first 4 samples are known; each of the others follows from results"
    )


def test_networks_take_no_memory(tmp_path: Path) -> None:
    """160 GB, which no machine of the tests has."""
    [line] = described(tmp_path, {"model.width": {"choice": [200_000]}})
    assert line.startswith(f"1 networks of {200_000 * 200_000 + 400_000:,} parameters")


def test_points_whose_networks_cannot_be_built_are_named(tmp_path: Path) -> None:
    space = {
        "model": {
            "choice": [
                {"name": "mlp", "width": 8},
                {
                    "name": "torchvision/resnet18",
                    "arguments": {"no_such": {"choice": [1, 2, 3, 4]}},
                },
            ]
        }
    }
    with pytest.raises(SpecError) as refused:
        described(tmp_path, space)
    texts = [problem.message for problem in refused.value.problems]
    assert len(texts) == trial_sizes._MOST_NAMED + 1
    assert all("no_such" in text for text in texts[:3])
    assert texts[3] == "1 more of 5 points cannot be built"
