"""The file with a winner's spec: read as any other, and the spec of the trial but for its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import training_spec

from raydc import spec as specs
from raydc.tracking import trials, winner_spec
from raydc.tracking.trials import Trial

VALUES = {
    "train.learning_rate": 1e-05,
    "train.optimizer": {"name": "sgd", "momentum": 0.75},
    "model.width": 24,
}
SPACE = {
    "train.learning_rate": {"loguniform": [1e-6, 1e-1]},
    "train.optimizer": {"choice": ["adamw", {"name": "sgd", "momentum": 0.75}]},
    "model.width": {"choice": [8, 24]},
}


def write(folder: Path, state: str = "finished", **sections: Any) -> tuple[str, specs.ResolvedSpec]:
    model = {"name": "mlp", "depth": 2, "width": 8}
    sweep = {"space": SPACE, "num_samples": 9}
    given = training_spec(str(folder), **{"model": model, "sweep": sweep, **sections})
    winner = Trial("0" * 16, VALUES, 3, 0.8125, state)
    return winner_spec.write_text(given, winner, 4, "ab12"), given


def test_file_is_the_spec_of_the_trial_with_another_name(tmp_path: Path) -> None:
    # Text that other readers of YAML, or YAML 1.2, would take for a number or a boolean.
    names = ("1e-3", "yes", "0o7", "a: b", "two\nlines", "a\x85b", "c\u2028d")
    columns = dict.fromkeys(names, "numeric")
    text, given = write(
        tmp_path,
        data={"features": {"columns": columns, "exclude": ["1e3"]}},
        train={"logical_shards": 4},
        scaling={"num_workers": 2},
    )
    read = specs.resolve(specs.loads(text))
    assert read.name == "short-best"
    assert (read.train.logical_shards, read.scaling.max_workers) == (4, 2)
    # What a trial is named by: its resolved spec.
    keys = []
    for spec in (read.model_copy(update={"name": given.name}), given):
        own = specs.to_dict(spec)
        keys.append(trials.trial_key(own, VALUES if spec is given else {}))
    assert keys[0] == keys[1]
    assert text.splitlines()[:4] == [
        "# Trial 4 of the 9 of sweep short, its best, accuracy 0.8125.",
        "# raydc train best.yaml",
        "# trains it again, on any workers, to the same model.safetensors, with SHA-256",
        "# ab12",
    ]


@pytest.mark.parametrize(
    ("state", "exact", "said"),
    [
        ("failed", True, "# trains it to its end: the trial has failed before that."),
        ("finished", False, "# trains it again; with train.exact: false the weights may differ"),
    ],
)
def test_file_promises_no_hash_that_it_may_not_give(
    tmp_path: Path, state: str, exact: bool, said: str
) -> None:
    text, _ = write(tmp_path, state, train={"exact": exact})
    assert said in text
    assert "ab12" not in text


def test_name_of_the_longest_sweep_is_cut(tmp_path: Path) -> None:
    text, _ = write(tmp_path, name="n" * 100)
    assert specs.loads(text).name == "n" * 95 + "-best"
