"""The spec refuses what it does not understand, says where, and says it all at once."""

from __future__ import annotations

import math
from pathlib import Path

import jsonschema
import pytest
import yaml

from raydc import spec
from raydc.errors import SpecError, UsageError
from raydc.spec import document
from raydc.spec.augmentation import Augment
from raydc.spec.load import known_keys
from raydc.spec.sections import Spec

GOOD = """\
name: trial
data:
  source: rows.csv
  target: y
model:
  name: mlp
  depth: 2
train:
  epochs: 3
  learning_rate: 1e-3
"""

# One line of GOOD replaced (or lines added at the end), the place, and what the message must say.
WRONG = [
    (
        "  epochs: 3",
        "  epochs: 3\n  globl_batch_size: 8",
        "spec.yaml:10:3: train.globl_batch_size: unknown field; did you mean global_batch_size?",
    ),
    ("name: trial", "name: ''", "spec.yaml:1:1: name:"),
    ("name: trial", "name: größe", "spec.yaml:1:1: name:"),
    ("name: trial", f"name: {'a' * 101}", "spec.yaml:1:1: name:"),
    ("name: trial", "", "spec.yaml:2:1: name: required"),
    (
        "  epochs: 3",
        "  epochs: three",
        "spec.yaml:9:3: train.epochs: input should be a valid integer, not 'three'",
    ),
    (
        "  epochs: 3",
        "  epochs: 0",
        "spec.yaml:9:3: train.epochs: input should be greater than or equal to 1, not 0",
    ),
    ("  epochs: 3", "  epochs: 3\n  max_steps: 5", "train: give epochs or max_steps, not both"),
    (
        "  epochs: 3",
        "  epochs: 3\n  epochs: 4",
        "spec.yaml:10:3: train.epochs: given twice; the first is at spec.yaml:9:3",
    ),
    (
        "  learning_rate: 1e-3",
        "  learning_rate: fast",
        "spec.yaml:10:3: train.learning_rate: input should be a valid number",
    ),
    (
        "  learning_rate: 1e-3",
        "  learning_rate: -1",
        "train.learning_rate: input should be greater than 0",
    ),
    ("  learning_rate: 1e-3", "  learning_rate: .nan", "train.learning_rate:"),
    ("  depth: 2", "  depht: 2", "spec.yaml:7:3: model.depht: unknown field; did you mean depth?"),
    (
        "  name: mlp\n  depth: 2",
        "  builder: nets:make\n  argumants: {}",
        "spec.yaml:7:3: model.argumants: unknown field; did you mean arguments?",
    ),
    (
        "  name: mlp\n  depth: 2",
        "  builder: nets:make\n  arguments: 3",
        "spec.yaml:7:3: model.arguments: input should be a valid dictionary, not 3",
    ),
    ("  depth: 2", "  depth: 2\n  hidden: [3]", "model: give hidden, or depth and width, not both"),
    (
        "  depth: 2",
        "  depth: 2\n  dropout: 1.0",
        "spec.yaml:8:3: model.dropout: input should be less than 1, not 1.0",
    ),
    ("  source: rows.csv", "  source: [a, b]", "data.source: input should be a valid string"),
    ("  source: rows.csv", "  source: {train: a.csv}", "spec.yaml:3:3: data.source.test: required"),
    (
        "  target: y",
        "  target: y\n  augment: {crop_padding: -1}",
        "data.augment.crop_padding: input should be greater than or equal to 0",
    ),
    (
        "  target: y",
        "  target: y\n  task: ranking",
        "data.task: input should be 'classification', 'regression', 'multilabel' or "
        "'language_modelling', not 'ranking'",
    ),
    (
        "  target: y",
        "  target: y\n  split: {validation_fraction: 0.6, test_fraction: 0.5}",
        "leave no row to train on",
    ),
    (
        "  target: y",
        "  target: y\n  split: {validation_fraction: 0, test_fraction: 0}",
        "data.split: no row would be held out for the evaluation",
    ),
    ("  target: y", "  target: y\n  classes: [a, a]", "classes names one class twice"),
    ("  target: y", "  target: [", "not YAML"),
    (
        "  epochs: 3",
        "  epochs: 3\n  metric: rmse",
        "spec.yaml:10:3: train.metric: 'rmse' is not a metric of classification",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  metrics: [f1, mape]",
        "spec.yaml:10:3: train.metrics: 'mape' is not a metric of classification",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  metric: aurocc",
        "train.metric: input should be 'accuracy', 'f1'",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  metric: own.scores:brier",
        "train.mode: say whether more or less of your own metric is better: max or min",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  loss: 3d:hinge",
        "train.loss: string should match pattern",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  threshold: recall",
        "train.threshold: recall needs at_least, such as 0.9",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  threshold: {name: f1, at_least: 0.9}",
        "train.threshold: at_least is for precision and recall, not for f1",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  sampling: {name: balanced, max_repeats: 0.5}",
        "train.sampling.max_repeats: input should be greater than or equal to 1",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  ema_decay: 1.0",
        "train.ema_decay: input should be less than 1",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  loss: mae",
        "spec.yaml:10:3: train.loss: 'mae' is not a loss of classification; "
        "choose cross_entropy, focal",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  loss: {name: focal, label_smoothing: 0.1}",
        "train.loss: label_smoothing is for cross_entropy and binary_cross_entropy, not for focal",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  loss: {name: focal, class_weights: {a: 0.0}}",
        "train.loss.class_weights.a: input should be greater than 0, not 0.0",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  loss: {name: focal, class_weights: equal}",
        "train.loss.class_weights: input should be 'balanced', not 'equal'",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\n  optimizer: {name: adam, momentum: 0.9}",
        "momentum and nesterov are for sgd",
    ),
    ("  epochs: 3", "  epochs: 3\n  lr_scheduler: cosin", "train.lr_scheduler"),
    (
        "  epochs: 3",
        "  epochs: 3\n  logical_shards: 2\nscaling: {num_workers: 4}",
        "train.logical_shards: 2 shards cannot keep 4 workers busy",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nscaling: {num_workers: {min: 3, max: 2}}",
        "scaling.num_workers: min (3) must not exceed max (2)",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nscaling: {num_workers: 3, resources_per_worker: {GPU: 0.5}}",
        "scaling.resources_per_worker.GPU: 0.5 GPU for each of 3 workers puts 2 of them on one GPU",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nscaling: {num_workers: {min: 1, max: 2}, resources_per_worker: {GPU: 0.3}}",
        "puts 2 of them on one GPU, and NCCL refuses a GPU that has two workers",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nscaling: {use_gpu: false, resources_per_worker: {GPU: 1}}",
        "1 GPU for each worker, and use_gpu: false; leave one of them out",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\ncheckpoint: {every_steps: 5, every_seconds: 5}",
        "give every_steps or every_seconds, not both",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {port: 70000}",
        "serve.port: input should be less than or equal to 65535, not 70000",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {train.learning_rte: {uniform: [0.1, 1]}}}",
        "did you mean train.learning_rate?",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {train.learning_rate: {loguniform: [1, 0.1]}}}",
        "[low, high] with low < high",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {train.learning_rate: {uniform: [0.1, .inf]}}}",
        "both ends of a range, and the distance between them, are finite numbers",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {model.depth: {choice: [1, 0]}}}",
        "sweep.space.model.depth: 0 is not allowed there",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {model.depth: {choice: [1], grid: [2]}}}",
        "give exactly one of",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {storage: {choice: [a]}}}",
        "does not change the model",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {data.clean.missing: {choice: [drop]}}}",
        "prepared once for all trials",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {train.metric: {choice: [loss]}}}",
        "the same for all trials",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {ray_actor_options: {cpus: 1}}",
        "serve.ray_actor_options: unknown ['cpus']; known: num_cpus",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {tls: {certificate: a.pem}}",
        "serve.tls: the proxy of Ray Serve speaks plain HTTP",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {tls: true}",
        "as in cluster/nginx.conf, and leave serve.tls out",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {ray_actor_options: {num_cpus: -1}}",
        "num_cpus must be a number of at least 0, not -1",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nserve: {ray_actor_options: {resources: 3}}",
        "resources must be a mapping",
    ),
    (
        "  epochs: 3",
        "  epochs: 3\nsweep: {space: {data.augment.flip: {choice: [true]}}}",
        "known here: crop_padding, cutmix, horizontal_flip",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), WRONG, ids=[f"{n:02d}" for n in range(len(WRONG))]
)
def test_load_wrong_field_gives_one_message_with_its_place(
    old: str, new: str, message: str
) -> None:
    where = (
        "train.logical_shards" in message
        or "sweep" in new
        or "scaling" in new
        or "serve" in new
        or "checkpoint" in new
    )
    text = GOOD.replace(old, new) if not where else _insert(new)
    with pytest.raises(SpecError) as caught:
        spec.loads(text)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1, str(caught.value)


def _insert(new: str) -> str:
    # A further top-level section goes to the end of the file, its `train` lines to their place.
    train_lines, _, section = new.partition("\n")
    extra = [line for line in section.splitlines() if line.startswith("  ")]
    rest = [line for line in section.splitlines() if not line.startswith("  ")]
    return GOOD.replace("  epochs: 3", "\n".join([train_lines, *extra])) + "\n".join(rest) + "\n"


def test_load_reports_all_problems_in_file_order() -> None:
    text = (
        GOOD.replace("target:", "targt:")
        .replace("depth: 2", "depth: x")
        .replace("epochs: 3", "epochs: -1")
    )
    with pytest.raises(SpecError) as caught:
        spec.loads(text)
    assert [problem.where for problem in caught.value.problems] == [
        "spec.yaml:4:3",
        "spec.yaml:7:3",
        "spec.yaml:9:3",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("12", 12),
        ("0o14", 12), ("012", 12), ("0x1F", 31), ("1_000", "1_000"), (".5", 0.5), ("1.", 1.0),
        ("~", None), ("null", None), ("2024-01-01", "2024-01-01"), ("12:30:45", "12:30:45"),
        ("-.inf", -math.inf), ("'1'", "1"), ('"no"', "no"),
    ],
)  # fmt: skip
def test_scalar_follows_yaml_1_2(text: str, value: object) -> None:
    parsed = document.parse(f"key: {text}", "x").value["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text", ["", "- a", "just text", "a: !!python/object:os.system {}", "a: !mine 3", "? [a]\n: b"]
)
def test_parse_refuses_documents_that_are_not_mappings(text: str) -> None:
    with pytest.raises(SpecError):
        spec.loads(text)


def test_set_overrides_a_field_and_is_named_in_errors() -> None:
    loaded = spec.loads(
        GOOD,
        overrides=[
            "train.learning_rate=1e-2",
            "train.optimizer=sgd",
            "train.optimizer.momentum=0.9",
        ],
    )
    assert loaded.train.learning_rate == 0.01
    assert (loaded.train.optimizer.name, loaded.train.optimizer.momentum) == ("sgd", 0.9)
    with pytest.raises(
        SpecError, match=r"--set train\.epochs=x: train\.epochs: input should be a valid integer"
    ):
        spec.loads(GOOD, overrides=["train.epochs=x"])
    with pytest.raises(SpecError, match="did you mean epochs"):
        spec.loads(GOOD, overrides=["train.epoch=2"])
    with pytest.raises(UsageError, match="not of the form path=value"):
        spec.loads(GOOD, overrides=["train.epochs"])


def test_load_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        spec.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        spec.load(tmp_path / "binary.yaml")


def test_resolve_fills_defaults_that_depend_on_other_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = spec.resolve(spec.loads(GOOD, overrides=["scaling.num_workers={min: 1, max: 3}"]))
    assert resolved.data.source == str(tmp_path / "rows.csv")
    assert resolved.storage == str(tmp_path / "store")
    assert (resolved.train.metric, resolved.train.mode, resolved.train.logical_shards) == (
        "accuracy",
        "max",
        3,
    )
    assert resolved.data.split.test_fraction == 0.1
    assert spec.resolve(resolved) == resolved
    uri = spec.resolve(
        spec.loads(GOOD, overrides=["storage=s3://bucket/runs", "data.task=regression"])
    )
    assert (uri.storage, uri.train.metric, uri.train.mode) == ("s3://bucket/runs", "rmse", "min")
    official = spec.resolve(spec.loads(GOOD, overrides=["data.source={train: a.csv, test: b.csv}"]))
    assert official.data.split.test_fraction == 0.0
    alone = spec.resolve(spec.loads(GOOD, overrides=["scaling.num_workers=0"]))
    assert alone.train.logical_shards == 1
    by_steps = spec.resolve(spec.loads(GOOD, overrides=["checkpoint={every_steps: 4}"]))
    assert (by_steps.checkpoint.every_steps, by_steps.checkpoint.every_seconds) == (4, None)


def test_with_values_sets_paths_and_validates() -> None:
    base = spec.loads(GOOD)
    trial = spec.with_values(base, {"train.learning_rate": 0.5, "model.depth": 4})
    assert (trial.train.learning_rate, trial.model.depth, base.model.depth) == (0.5, 4, 2)  # type: ignore[union-attr]
    with pytest.raises(SpecError, match=r"model\.depth"):
        spec.with_values(base, {"model.depth": 0})


def test_space_accepts_augmentation() -> None:
    space = "{data.augment.horizontal_flip: {grid: [true, false]}}"
    loaded = spec.loads(GOOD, overrides=[f"sweep.space={space}"])
    trial = spec.with_values(loaded, {"data.augment.horizontal_flip": True})
    assert trial.data.augment == Augment(horizontal_flip=True)


def test_to_dict_round_trips_a_spec() -> None:
    loaded = spec.resolve(
        spec.loads(GOOD, overrides=["serve={}", "sweep.space={model.depth: {choice: [1, 2]}}"])
    )
    assert spec.resolve(spec.loads(yaml.safe_dump(spec.to_dict(loaded)))) == loaded


def test_json_schema_agrees_with_the_spec() -> None:
    schema = Spec.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(GOOD.replace("1e-3", "0.001")))
    assert list(
        validator.iter_errors(
            yaml.safe_load(GOOD.replace("epochs: 3", "epoch: 3").replace("1e-3", "0.001"))
        )
    )


def test_every_field_has_a_description() -> None:
    missing = [
        f"{name}.{key}"
        for name, definition in Spec.model_json_schema()["$defs"].items()
        for key, value in definition.get("properties", {}).items()
        if "description" not in value
        and "$ref" not in value
        and key not in ("name", "min", "max", "data", "model")
    ]
    assert not missing


def test_every_shipped_spec_loads(root: Path) -> None:
    found = sorted((root / "examples").rglob("*.yaml"))
    assert found
    for path in found:
        loaded = spec.load(path)
        # A pretrained encoder is named as on the hub, which a test does not ask.
        if getattr(loaded.model, "name", "") != "huggingface":
            spec.resolve(loaded)


def test_known_keys_depend_on_the_kind_of_model() -> None:
    assert "hidden" in known_keys(("model",), {"model": {"name": "mlp"}})
    assert "channels" in known_keys(("model",), {"model": {"name": "cnn"}})
    assert known_keys(("train", "optimizer")) == [
        "momentum",
        "name",
        "nesterov",
        "no_decay",
        "weight_decay",
    ]


def test_resolve_leaves_no_none_where_a_value_is_certain() -> None:
    resolved = spec.resolve(spec.loads(GOOD, overrides=["train.epochs=null"]))
    assert isinstance(resolved, spec.ResolvedSpec)
    assert (resolved.train.metric, resolved.train.mode) == ("accuracy", "max")
    assert (resolved.train.logical_shards, resolved.data.split.test_fraction) == (1, 0.1)
    assert (resolved.train.total_steps(7), resolved.checkpoint.interval_s) == (70, 60.0)
    # A trial of a sweep is as certain as the spec that it was made from.
    assert type(spec.with_values(resolved, {"train.max_steps": 5, "train.epochs": None})) is type(
        resolved
    )


def test_total_steps_counts_steps_or_epochs() -> None:
    by_epoch = spec.resolve(spec.loads(GOOD, overrides=["train.epochs=3"])).train
    by_step = spec.resolve(spec.loads(GOOD, overrides=["train.epochs=null", "train.max_steps=9"]))
    assert (by_epoch.total_steps(4), by_step.train.total_steps(4)) == (12, 9)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
def test_host_that_replicas_can_be_reached_at_is_taken(host: str) -> None:
    loaded = spec.loads(GOOD, overrides=[f'serve.host="{host}"'])
    assert loaded.serve is not None
    assert loaded.serve.host == host


@pytest.mark.parametrize("host", ["::1", "127.0.0.2", "10.0.0.5", "fe80::1", "myhost", "*", ""])
def test_host_with_which_an_endpoint_is_never_ready_is_refused(host: str) -> None:
    with pytest.raises(SpecError, match=r"serve\.host: .*127\.0\.0\.1 is for clients"):
        spec.loads(GOOD, overrides=[f'serve.host="{host}"'])


def test_what_is_about_classes_or_validation_rows_needs_them() -> None:
    regression = GOOD.replace("  target: y", "  target: y\n  task: regression")
    for name, value in (("threshold", "f1"), ("sampling", "balanced")):
        with pytest.raises(SpecError, match=name):
            spec.loads(regression.replace("  epochs: 3", f"  epochs: 3\n  {name}: {value}"))
    alone = GOOD.replace("  target: y", "  target: y\n  split: {validation_fraction: 0}")
    with pytest.raises(SpecError, match="it is chosen on validation rows"):
        spec.loads(alone.replace("  epochs: 3", "  epochs: 3\n  threshold: f1"))
