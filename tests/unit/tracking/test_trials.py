"""Trials of a sweep: specs, keys, records, the winner and the table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from training import training_spec

from raydc import spec
from raydc.errors import TrainError
from raydc.storage import Storage
from raydc.tracking import events, trials
from raydc.tracking.trials import Trial


def trial(number: int, metric: float | None) -> Trial:
    return Trial(f"key{number}", {"model.width": number}, 3, metric, "finished")


def test_pick_winner_takes_the_first_of_the_best() -> None:
    sampled = (trial(0, None), trial(1, 0.5), trial(2, 0.7), trial(3, 0.7), trial(4, 0.1))
    assert trials.pick_winner(sampled, "max").key == "key2"
    assert trials.pick_winner(sampled, "min").key == "key4"
    with pytest.raises(TrainError, match="none of the 1 trials finished an epoch"):
        trials.pick_winner((trial(0, None),), "max")


def test_trial_key_depends_on_the_spec_but_not_on_the_storage() -> None:
    given = training_spec(
        "/a",
        model={"name": "mlp", "depth": 1},
        sweep={"space": {"model.depth": {"choice": [1, 2]}}},
    )
    one, two = (trials.trial_spec(given, {"model.depth": depth}) for depth in (1, 2))
    assert (one.sweep, one.scaling.num_workers) == (None, 0)
    assert one.model.depth == 1  # type: ignore[union-attr]
    elsewhere = spec.with_values(one, {"storage": "/b"})
    assert trials.trial_key(one) == trials.trial_key(elsewhere)
    assert trials.trial_key(one) != trials.trial_key(two)


def test_trial_spec_keeps_the_logical_shards() -> None:
    given = training_spec(
        "/a", scaling={"num_workers": 4}, model={"name": "mlp"}, train={"logical_shards": 4}
    )
    assert trials.trial_spec(given, {}).train.logical_shards == 4


def test_format_table_marks_the_winner() -> None:
    sampled = (trial(0, 0.25), trial(1, None))
    lines = trials.format_table(sampled, sampled[0], "accuracy")
    assert lines[0].split() == ["trial", "model.width", "epochs", "accuracy", "state"]
    assert lines[1].split() == ["*", "0", "0", "3", "0.2500", "finished"]
    assert lines[2].split() == ["1", "1", "3", "finished"]


def write_epochs(folder: Storage, metrics: list[float | None]) -> None:
    log = events.EventLog(folder, "metrics")
    for number, accuracy in enumerate(metrics, start=1):
        log.write(kind="epoch", step=number, epoch=number, accuracy=accuracy)


def test_read_trial_gives_best_metric_and_state(tmp_path: Path) -> None:
    given = training_spec(
        "/a",
        model={"name": "mlp", "depth": 1},
        sweep={"space": {"model.depth": {"choice": [1, 2]}}},
    )
    sweep_folder = Storage(str(tmp_path))
    values = {"model.depth": 2}
    key = trials.trial_key(trials.trial_spec(given, values))
    assert trials.read_trial(given, sweep_folder, values, has_failed=True).state == "failed"
    place = sweep_folder / "trials" / key
    write_epochs(place, [0.5, 0.75, None])
    read = trials.read_trial(given, sweep_folder, values, has_failed=False)
    assert read == Trial(key, values, 3, 0.75, "pruned")
    place.write_json(trials.FINISHED_FILE, {})
    assert trials.read_trial(given, sweep_folder, values, has_failed=True).state == "finished"


@pytest.mark.parametrize("damage", [None, "metrics", "record"])
def test_metric_of_a_finished_trial_survives_a_changed_digit(
    tmp_path: Path, damage: str | None
) -> None:
    given = training_spec("x", sweep={"space": {"train.learning_rate": {"choice": [0.1, 0.2]}}})
    values = {"train.learning_rate": 0.1}
    own = trials.trial_spec(given, values)
    place = Storage(str(tmp_path)) / "trials" / trials.trial_key(own)
    write_epochs(place, [0.5, 0.75])
    trials.mark_finished(place, own, values)
    # Either of the two files still tells the metric.
    name = {"metrics": "metrics.jsonl", "record": trials.FINISHED_FILE, None: None}[damage]
    if name is not None:
        content = place.read_bytes(name)
        assert b"0.75" in content
        place.write_bytes(name, content.replace(b"0.75", b"0.95"))
    assert trials.read_trial(given, Storage(str(tmp_path)), values, False).metric == 0.75


def test_tune_metric_of_a_diverged_trial_is_the_worst() -> None:
    given = training_spec("/a", model={"name": "mlp"})
    assert trials.tune_metric(given, {"accuracy": None}) == -math.inf
    least = spec.with_values(given, {"train.metric": "loss", "train.mode": "min"})
    assert trials.tune_metric(least, {"loss": None}) == math.inf
    assert trials.tune_metric(least, {"loss": 1}) == 1.0
