"""Twenty kill schedules of several networks, precisions and optimisers end as undisturbed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phases import PHASES
from training import check_ledger, step_records, training_spec, weights_hash, write_pictures

from raydc import engine
from raydc import spec as specs
from raydc.chaos import schedule
from raydc.chaos.drill import Drill
from raydc.data import prepared
from raydc.loop import worker
from raydc.loop.fault_injection import DRIVER, RESIZE, RESTORED, STEP, WORKER, Fault
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events

NUM_STEPS = 28  # Four epochs of 200 rows, 32 a step: the last of each has 8.
MOST_WORKERS = 3
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [16, 16], "dropout": 0.2},
    "cnn": {"name": "cnn", "channels": [4, 8], "batch_norm": True, "dropout": 0.2},
    "residual": {"builder": "exact_models:residual"},
    "transformer": {"builder": "exact_models:transformer"},
    "attention": {"builder": "exact_models:transformer", "arguments": {"dropout": 0.0}},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "learning_rate": 1e-2},
    "momentum": {"optimizer": {"name": "sgd", "momentum": 0.9}, "learning_rate": 3e-2},
}
CASES = list(itertools.product(MODELS, ("fp32", "bf16"), OPTIMIZERS))  # One for each seed.
AUGMENT = {"crop_padding": 1, "horizontal_flip": True}
REST = {"gradient_clip_norm": 0.5, "lr_scheduler": {"name": "cosine", "warmup_steps": 3}}


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[engine.Engine]:
    yield engine.connect(num_cpus=4)
    engine.disconnect()


def spec_of(seed: int, storage: Path, num_kills: int) -> Spec:
    model, precision, optimizer = CASES[seed]
    rest = REST if seed % 3 else {}
    train = {
        **OPTIMIZERS[optimizer],
        **rest,
        "epochs": 4,
        "precision": precision,
        "logical_shards": 4 + seed % 3,
    }
    return training_spec(
        str(storage),
        seed=seed,
        model=MODELS[model],
        data={"augment": AUGMENT if model in ("cnn", "residual") else None},
        train={**train, "log_every_steps": 1},
        scaling={"num_workers": 2 + (seed % 4 == 3)},
        checkpoint={"every_steps": 3, "num_to_keep": 2},
        fault_tolerance={"max_failures": 2 * num_kills + 2, "spare_workers": seed % 4 == 0},
    )


def schedule_of(seed: int) -> list[Fault]:
    """Kills a worker in a step, in a checkpoint phase and while it restores, and a driver.

    The next driver has the same number of workers for even seeds, and another one for odd seeds.
    """
    kinds = (WORKER, schedule.CHECKPOINT, schedule.RESTORE, (DRIVER, RESIZE)[seed % 2])
    drawn = schedule.draw(seed, len(kinds), NUM_STEPS, kinds, MOST_WORKERS)
    phase = PHASES[seed % len(PHASES)]
    return [
        fault if fault.place in (STEP, RESTORED) else replace(fault, place=phase) for fault in drawn
    ]


def check_same(run: Storage, undisturbed: Storage, spec: Spec) -> None:
    """Weights and losses to the last bit, and every row in its place."""
    check_ledger(run, spec)
    check_ledger(undisturbed, spec)
    assert loss_column(run) == loss_column(undisturbed)
    assert weights_hash(run, NUM_STEPS) == weights_hash(undisturbed, NUM_STEPS)


def loss_column(run: Storage) -> str:
    """Of the history that survives, as it is written."""
    losses = [record["loss"] for record in step_records(run)]
    assert len(losses) == NUM_STEPS
    return json.dumps(losses)


def test_schedules_cover_every_kind_of_kill() -> None:
    drawn = [fault for seed in range(len(CASES)) for fault in schedule_of(seed)]
    assert len(CASES) == 20
    assert {fault.kind for fault in drawn} == {WORKER, DRIVER, RESIZE}
    assert {fault.place for fault in drawn} == {STEP, RESTORED, *PHASES}
    assert {fault.workers for fault in drawn} == {None, 1, 2, 3}


@pytest.mark.soak
@pytest.mark.parametrize(
    "seed", range(len(CASES)), ids=lambda seed: f"{seed}-{'-'.join(CASES[seed])}"
)
def test_every_kill_schedule_ends_as_undisturbed(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_engine: engine.Engine,
    seed: int,
) -> None:
    monkeypatch.chdir(root / "tests")  # Where drivers and workers find the builders.
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    plan = schedule_of(seed)
    spec = spec_of(seed, tmp_path, len(plan))
    undisturbed = Storage(str(tmp_path / "undisturbed"))
    worker.fit(spec, undisturbed, data.folder)

    drill = Drill(spec, Storage(str(tmp_path / "disturbed")), data.folder, ray_engine.address)
    happened = drill.run(plan)
    assert {one.fault.id for one in happened} == {fault.id for fault in plan}
    check_same(drill.folder, undisturbed, spec)


@pytest.mark.soak
def test_driver_restarts_resize_2_4_3_1_workers(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, ray_engine: engine.Engine
) -> None:
    monkeypatch.chdir(root / "tests")
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    plan = [
        Fault(str(step), RESIZE, STEP, step, rank=step, workers=size)
        for step, size in ((6, 4), (13, 3), (20, 1))
    ]
    spec = spec_of(CASES.index(("cnn", "fp32", "momentum")), tmp_path, len(plan))
    spec = specs.with_values(spec, {"scaling.num_workers": 2})
    undisturbed = Storage(str(tmp_path / "undisturbed"))
    worker.fit(spec, undisturbed, data.folder)
    drill = Drill(spec, Storage(str(tmp_path / "disturbed")), data.folder, ray_engine.address)
    drill.run(plan)
    starts = [
        record
        for record in events.read(drill.folder, "events")
        if record["kind"] == "attempt_started"
    ]
    assert [start["world_size"] for start in starts] == [2, 4, 3, 1]
    check_same(drill.folder, undisturbed, spec)
