"""What is refused in a user's file only: options that nothing reads, and passwords."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydc import spec as specs
from raydc.errors import SpecError

LABELS = {"task": "multilabel"}
NUMBER = {"task": "regression"}
SERIES = {
    **NUMBER,
    "windows": {"length": 4, "time": "t"},
    "split": {"by": "time", "column": "t"},
}
TOWERS = {"name": "two_towers", "user": ["u"], "item": ["i"]}
SQL = {"sql": "SELECT 1", "key": "id"}


def made(
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "name": "a",
        "data": {"source": "rows.csv", **(data or {})},
        "model": model or {"name": "linear"},
        "train": train or {},
        **more,
    }


UNUSED: list[tuple[dict[str, Any], str]] = [
    (
        made(train={"loss": {"name": "focal", "positive_weights": "balanced"}}),
        "train.loss.positive_weights: it is for task: multilabel; class_weights weigh classes",
    ),
    (
        made(train={"lr_scheduler": {"name": "constant", "final_fraction": 0.1}}),
        "train.lr_scheduler.final_fraction: it is for cosine and linear, not for constant",
    ),
    (
        made(train={"lr_scheduler": {"name": "cosine", "gamma": 0.5}}),
        "train.lr_scheduler.gamma: it is for step",
    ),
    (
        made(train={"sampling": {"name": "undersample", "max_repeats": 2.0}}),
        "train.sampling.max_repeats: no row is repeated",
    ),
    (made(train={"ndcg_k": 5}), "train.ndcg_k: no rows are ranked"),
    (made(SERIES, {"name": "nlinear", "kernel": 5}), "model.kernel: nlinear has no moving average"),
    (made(model={**TOWERS, "activation": "gelu"}), "model.activation: it is for hidden layers"),
    (made(model={"name": "fusion", "table": []}), "model.table: there is at least one layer"),
    (
        made(model={"name": "linear", "weights_sha256": "0" * 64}),
        "model.weights_sha256: it is that of a file",
    ),
    (made({**LABELS, "query": "u"}), "data.query: rows are ranked by a value or a class"),
    (
        made({**SERIES, "windows": {**SERIES["windows"], "horizon": 2}, "query": "u"}),
        "data.query: a forecast of several steps is not ranked",
    ),
    (
        made({**SERIES, "windows": {**SERIES["windows"], "gaps": "ignore", "step": 2.0}}),
        "data.windows.step: gaps: ignore takes rows at any step",
    ),
    (
        made({**LABELS, "label_columns": ["a", "b"], "label_delimiter": ";"}),
        "data.label_delimiter: the labels are those of label_columns",
    ),
    (made({"format": "jsonl", "csv": {"skip_rows": 1}}), "data.csv: the rows are jsonl, not CSV"),
    (made({"features": {"hash_buckets": 8}}), "data.features.hash_buckets: no column has it"),
    (made({"features": {"target_smoothing": 1.0}}), "data.features.target_smoothing: no column"),
    (made({"features": {"text": {"max_tokens": 9}}}), "data.features.text: no column is a text"),
    (
        made(
            {"features": {"columns": {"a": "text"}, "text": {"tokenizer": "t", "vocabulary": 999}}}
        ),
        "data.features.text.vocabulary: the tokenizer has its own",
    ),
    (made({"clean": {"outlier_quantile": 0.1}}), "data.clean.outlier_quantile: outliers: keep has"),
    (
        made({"clean": {"columns": {"a": {"outliers": "robust", "outlier_deviations": 2.0}}}}),
        "data.clean.columns.a.outlier_deviations: outliers: robust has no limits",
    ),
    (
        made({"clean": {"missing": "drop", "indicator": True}}),
        "data.clean.indicator: missing",
    ),
]
READ = [
    made(LABELS, train={"loss": {"name": "focal", "positive_weights": "balanced"}}),
    made(SERIES, {"name": "dlinear", "kernel": 5}),
    made(model={**TOWERS, "hidden": [4], "dropout": 0.2}),
    made(model={**TOWERS, "dropout": 0.2}),
    made({**NUMBER, "query": "u"}, train={"ndcg_k": 5}),
    made({"clean": {"outlier_quantile": 0.1, "columns": {"a": {"outliers": "clip"}}}}),
    made({"features": {"hash_buckets": 8, "encodings": {"a": "hashing"}}}),
    made(
        train={"lr_scheduler": {"name": "constant", "gamma": 0.5}},
        sweep={"num_samples": 2, "space": {"train.lr_scheduler.name": {"choice": ["step"]}}},
    ),
]


@pytest.mark.parametrize(("spec", "message"), UNUSED, ids=lambda one: str(one)[:40])
def test_an_option_that_nothing_reads_is_refused_in_a_file(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        specs.loads(yaml.safe_dump(spec))
    [problem] = refused.value.problems
    assert f"{problem.path}: {problem.message}".startswith(message)
    # A model that was trained with it is read as before.
    stored = specs.from_dict(copy.deepcopy(spec))
    assert specs.resolve(stored)


@pytest.mark.parametrize("spec", READ, ids=lambda one: str(one)[:60])
def test_an_option_that_is_read_is_accepted(spec: dict[str, Any]) -> None:
    found = specs.loads(yaml.safe_dump(spec))
    # Written out with all defaults, it is accepted as well.
    specs.loads(yaml.safe_dump(specs.to_dict(found)))


@pytest.mark.parametrize("name", ["password", "PASSWORD", "sslpassword", "pass%77ord"])
@pytest.mark.parametrize("is_part", [False, True])
def test_a_password_among_the_parameters_of_a_uri_is_refused(name: str, is_part: bool) -> None:
    query = {**SQL, "connection": f"postgresql://h/db?user=u&{name}=secret"}
    source = {"train": query, "test": "rows.csv"} if is_part else query
    with pytest.raises(SpecError, match="holds a password; give it as") as refused:
        specs.loads(yaml.safe_dump(made({"source": source})))
    assert "secret" not in str(refused.value)
    assert refused.value.problems[0].path.endswith("connection")
    plain = {**SQL, "connection": "postgresql://h/db?user=u&passfile=p"}
    specs.loads(yaml.safe_dump(made({"source": plain})))


def test_examples_have_no_option_that_nothing_reads() -> None:
    paths = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))
    for path in paths:
        if "model:" in path.read_text():
            specs.load(path)
