"""What a sweep decides without Ray: the winner, the key of a trial, its spec."""

from __future__ import annotations

import pytest
from training import training_spec

from raydc import spec, sweep
from raydc.errors import TrainError
from raydc.sweep import Trial


def trial(number: int, metric: float | None) -> Trial:
    return Trial(f"key{number}", {"model.width": number}, 3, metric, "finished")


def test_the_best_wins_and_of_equals_the_first() -> None:
    trials = (trial(0, None), trial(1, 0.5), trial(2, 0.7), trial(3, 0.7), trial(4, 0.1))
    assert sweep.best(trials, "max").key == "key2"
    assert sweep.best(trials, "min").key == "key4"
    with pytest.raises(TrainError, match="none of the 1 trials finished an epoch"):
        sweep.best((trial(0, None),), "max")


def test_a_trial_is_known_by_what_it_trains() -> None:
    given = training_spec(
        "/a",
        model={"name": "mlp", "depth": 1},
        sweep={"space": {"model.depth": {"choice": [1, 2]}}},
    )
    one, two = (sweep.trial_spec(given, {"model.depth": depth}) for depth in (1, 2))
    assert (one.sweep, one.scaling.num_workers, one.model.depth) == (None, 0, 1)  # type: ignore[union-attr]
    elsewhere = spec.with_values(one, {"storage": "/b"})
    assert sweep.trial_key(one) == sweep.trial_key(elsewhere)
    assert sweep.trial_key(one) != sweep.trial_key(two)


def test_logical_shards_stay_those_of_the_spec() -> None:
    given = training_spec(
        "/a", scaling={"num_workers": 4}, model={"name": "mlp"}, train={"logical_shards": 4}
    )
    assert sweep.trial_spec(given, {}).train.logical_shards == 4


def test_the_table_marks_the_winner() -> None:
    trials = (trial(0, 0.25), trial(1, None))
    lines = sweep.table(trials, trials[0], "accuracy")
    assert lines[0].split() == ["trial", "model.width", "epochs", "accuracy", "state"]
    assert lines[1].split() == ["*", "0", "0", "3", "0.2500", "finished"]
    assert lines[2].split() == ["1", "1", "3", "finished"]
