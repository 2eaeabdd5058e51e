"""Trials of a sweep: specs, keys, records, the winner and the table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import training_spec

from raydc import spec
from raydc.elastic.trial_draws import make_draws
from raydc.errors import RunError, TrainError
from raydc.storage import Storage
from raydc.tracking import events, trial_table, trials
from raydc.tracking.trials import Trial


def trial(number: int, metric: float | None) -> Trial:
    return Trial(f"key{number}", {"model.width": number}, 3, metric, "finished")


def test_pick_winner_takes_the_first_of_the_best() -> None:
    sampled = (trial(0, None), trial(1, 0.5), trial(2, 0.7), trial(3, 0.7), trial(4, 0.1))
    assert trials.pick_winner(sampled, "max").key == "key2"
    assert trials.pick_winner(sampled, "min").key == "key4"
    with pytest.raises(TrainError, match="none of the 1 trials finished an epoch"):
        trials.pick_winner((trial(0, None),), "max")


def test_sweep_whose_trials_all_cost_too_much_says_so() -> None:
    refused = replace(trial(0, None), error="infeasible: parameters 54, of at most 1")
    with pytest.raises(TrainError, match=r"none of .* within sweep\.constraints; .* 54"):
        trials.pick_winner((refused, refused), "max")
    failed = replace(refused, error="out of memory")
    with pytest.raises(TrainError, match="finished an epoch"):
        trials.pick_winner((refused, failed), "max")


SWEEP: dict[str, Any] = {
    "model": {"name": "mlp", "depth": 1},
    "sweep": {"space": {"model.depth": {"choice": [1, 2]}}},
}
# A sweep as an older raydc recorded it, and the keys that it gave to its trials.
RECORDED = """
name: old
seed: 3
storage: /store
data:
  source: /rows.csv
  format: auto
  csv: {header: true, quotes: double}
  partitioning: hive
  task: classification
  target: y
  split: {validation_fraction: 0.1, test_fraction: 0.1}
  clean: {missing: impute, missing_values: [''], duplicates: keep}
  features: {exclude: [], columns: {}, scale: standard, max_categories: 128}
model: {name: mlp, depth: 1, dropout: 0.0}
train:
  epochs: 2
  global_batch_size: 16
  logical_shards: 1
  exact: true
  optimizer: {name: adamw, momentum: 0.0, nesterov: false}
  learning_rate: 0.001
  lr_scheduler: {name: constant, warmup_steps: 0, final_fraction: 0.0, step_epochs: 10, gamma: 0.1}
  precision: fp32
  metric: accuracy
  mode: max
  log_every_steps: 10
scaling: {num_workers: 1, use_gpu: auto, start_timeout_s: 600.0}
fault_tolerance: {max_failures: 3, max_preemption_failures: -1, max_recomputed_steps: 10,
  spare_workers: true}
checkpoint: {every_seconds: 60.0, num_to_keep: 3}
sweep:
  space:
    model.depth: {choice: [1, 2]}
    train.learning_rate: {choice: [0.1, 0.2]}
  num_samples: 2
  scheduler: {name: asha, grace_period: 1, reduction_factor: 3}
"""
KEYS = {
    "854f74a2d580e7b8": {"model.depth": 2, "train.learning_rate": 0.1},
    "a7a85606c4f9c800": {"model.depth": 1, "train.learning_rate": 0.2},
}


@pytest.mark.parametrize(("key", "values"), KEYS.items(), ids=KEYS)
def test_trials_of_an_older_raydc_keep_their_names(key: str, values: dict[str, Any]) -> None:
    recorded = yaml.safe_load(RECORDED)
    assert spec.with_defaults(recorded) != recorded, "nothing in it is older"
    assert trials.trial_key(recorded, values) == key
    assert trials.trial_key({**recorded, "storage": "/b"}, values) == key


def test_trial_key_depends_on_what_is_searched_and_on_the_seed() -> None:
    given = training_spec("/a", **SWEEP)
    recorded = spec.to_dict(given)
    one, two = {"model.depth": 1}, {"model.depth": 2}
    assert trials.trial_spec(given, one).model.depth == 1  # type: ignore[union-attr]
    keys = {
        trials.trial_key(recorded, one),
        trials.trial_key(recorded, two),
        trials.trial_key({**recorded, "seed": recorded["seed"] + 1}, one),
        trials.trial_key(recorded, {"train.optimizer": "sgd"}),
        trials.trial_key(recorded, {"train.learning_rate": 0.5}),
    }
    assert len(keys) == 5
    # The name of a trial and its training do not depend on where it is stored.
    alone = trials.trial_spec(given, one)
    assert (alone.sweep, alone.scaling.num_workers) == (None, 0)
    moved = {**recorded, "storage": "/b"}
    assert trials.trial_key(moved, one) == trials.trial_key(recorded, one)


def test_trials_that_are_none_of_the_sweep_are_refused(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    given = training_spec("/a", **SWEEP, name="swept")
    recorded = spec.to_dict(given)
    drawn = make_draws(given, recorded, folder, print).trials
    assert [trial["key"] for trial in drawn] == [
        trials.trial_key(recorded, trial["all_values"]) for trial in drawn
    ]
    (folder / "trials" / drawn[0]["key"]).write_json("metrics.json", {})
    # What a file browser leaves is no trial.
    (folder / "trials" / ".thumbnails").write_json("a.json", {})
    assert make_draws(given, recorded, folder, print).trials == drawn
    (folder / "trials" / "0123456789abcdef").write_json("metrics.json", {})
    with pytest.raises(RunError, match="0123456789abcdef: another version of raydc or Ray") as one:
        make_draws(given, recorded, folder, print)
    assert "--new" in (one.value.hint or "")


def test_wider_sweep_begins_with_the_same_trials(tmp_path: Path) -> None:
    space = {
        "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
        "model.depth": {"choice": [1, 2]},
    }
    model, drawn = {"name": "mlp", "depth": 1}, {}
    for num_samples in (3, 7):
        given = training_spec("/a", model=model, sweep={"space": space, "num_samples": num_samples})
        recorded = spec.to_dict(given)
        drawn[num_samples] = make_draws(given, recorded, Storage(str(tmp_path)), print).trials
    assert len(drawn[7]) == 7
    assert drawn[7][:3] == drawn[3]


def test_samples_that_are_the_same_trial_are_one_and_counted(tmp_path: Path) -> None:
    # Four points, of which two pairs mean the same.
    space = {
        "model.depth": {"choice": [1, 2]},
        "train.optimizer": {"choice": ["sgd", {"name": "sgd"}]},
    }
    given = training_spec(
        "/a", model={"name": "mlp", "depth": 1}, sweep={"space": space, "num_samples": 24}
    )
    lines: list[str] = []
    recorded = spec.to_dict(given)
    drawn = make_draws(given, recorded, Storage(str(tmp_path)), lines.append).trials
    assert sorted(trial["all_values"]["model.depth"] for trial in drawn) == [1, 2]
    assert lines == [
        "sweep     24 samples are 2 different trials; 22 that were drawn again are not run again"
    ]


def test_trial_spec_keeps_the_logical_shards() -> None:
    given = training_spec(
        "/a", scaling={"num_workers": 4}, model={"name": "mlp"}, train={"logical_shards": 4}
    )
    assert trials.trial_spec(given, {}).train.logical_shards == 4


def test_sections_that_were_drawn_are_written_short() -> None:
    values = {
        "train.optimizer": {"name": "sgd", "momentum": 0.87654321},
        "model": {"name": "linear"},
        "train.learning_rate": 0.00123456,
    }
    assert trials.format_values(values) == (
        "train.optimizer=sgd(momentum=0.8765), model=linear, train.learning_rate=0.001235"
    )


def test_text_with_line_breaks_stays_on_one_line() -> None:
    values = {"data.text": "one\ntwo\r\u2028é", "data.chat": {"name": "a\tb", "end": "\n"}}
    assert trials.format_values(values) == (r"data.text=one\ntwo\r\u2028é, data.chat=a\tb(end=\n)")


def test_format_table_marks_the_winner() -> None:
    sampled = (trial(0, 0.25), trial(1, None))
    lines = trial_table.format_table(sampled, sampled[0], "accuracy")
    assert lines[0].split() == ["trial", "model.width", "epochs", "accuracy", "state"]
    assert lines[1].split() == ["*", "0", "0", "3", "0.2500", "finished"]
    assert lines[2].split() == ["1", "1", "3", "finished"]


def write_epochs(folder: Storage, metrics: list[float | None]) -> None:
    log = events.EventLog(folder, "metrics")
    for number, accuracy in enumerate(metrics, start=1):
        log.write(kind="epoch", step=number, epoch=number, accuracy=accuracy)


def test_read_trial_gives_best_metric_and_state(tmp_path: Path) -> None:
    given = training_spec("/a", **SWEEP)
    sweep_folder = Storage(str(tmp_path))
    values = {"model.depth": 2}
    key = trials.trial_key(spec.to_dict(given), values)
    assert trials.read_trial(given, sweep_folder, key, values, error="died").state == "failed"
    place = sweep_folder / "trials" / key
    write_epochs(place, [0.5, 0.75, None])
    read = trials.read_trial(given, sweep_folder, key, values)
    assert read == Trial(key, values, 3, 0.75, "pruned")
    place.write_json(trials.FINISHED_FILE, {})
    assert trials.read_trial(given, sweep_folder, key, values, error="died").state == "finished"


@pytest.mark.parametrize("damage", [None, "metrics", "record"])
def test_metric_of_a_finished_trial_survives_a_changed_digit(
    tmp_path: Path, damage: str | None
) -> None:
    given = training_spec("x", sweep={"space": {"train.learning_rate": {"choice": [0.1, 0.2]}}})
    values = {"train.learning_rate": 0.1}
    own = trials.trial_spec(given, values)
    key = trials.trial_key(spec.to_dict(given), values)
    place = Storage(str(tmp_path)) / "trials" / key
    write_epochs(place, [0.5, 0.75])
    trials.mark_ended(place, own, values, trials.FINISHED_FILE)
    # Either of the two files still tells the metric.
    name = {"metrics": "metrics.jsonl", "record": trials.FINISHED_FILE, None: None}[damage]
    if name is not None:
        content = place.read_bytes(name)
        assert b"0.75" in content
        place.write_bytes(name, content.replace(b"0.75", b"0.95"))
    assert trials.read_trial(given, Storage(str(tmp_path)), key, values).metric == 0.75


def test_rung_metrics_are_the_best_up_to_each_rung(tmp_path: Path) -> None:
    given = training_spec("x", sweep={"space": {"train.learning_rate": {"choice": [0.1, 0.2]}}})
    own = trials.trial_spec(given, {"train.learning_rate": 0.1})
    place = Storage(str(tmp_path))
    assert trials.rung_metrics(own, place, (1, 3, 9)) == {}
    write_epochs(place, [None, 0.5, 0.4, 0.75])
    # The last rung has a result only when the trial says that it has finished.
    assert trials.rung_metrics(own, place, (1, 3, 4)) == {0: None, 1: 0.5}
    trials.mark_failed(place, {}, "ValueError: no", "page")
    assert trials.rung_metrics(own, place, (1, 3, 9)) == {0: None, 1: 0.5, 2: None}
    place.delete(trials.FAILED_FILE)
    trials.mark_ended(place, own, {}, trials.FINISHED_FILE)
    assert trials.rung_metrics(own, place, (2, 3, 7, 9)) == {0: 0.5, 1: 0.5, 2: 0.75, 3: 0.75}
    # A trial whose own training is longer than that of the others counts as a whole.
    assert trials.rung_metrics(own, place, (1, 3)) == {0: None, 1: 0.75}


def test_tune_metric_of_a_diverged_trial_is_the_worst() -> None:
    given = training_spec("/a", model={"name": "mlp"})
    assert trials.tune_metric(given, {"accuracy": None}) == -math.inf
    least = spec.with_values(given, {"train.metric": "loss", "train.mode": "min"})
    assert trials.tune_metric(least, {"loss": None}) == math.inf
    assert trials.tune_metric(least, {"loss": 1}) == 1.0
