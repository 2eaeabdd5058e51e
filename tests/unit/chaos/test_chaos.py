"""What `raydc chaos` decides and finds without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training import NUM_ROWS, training_spec, write_pictures

from raydc import order
from raydc.chaos import compare, ledger, schedule, small
from raydc.chaos.experiment import check_again, choices_of
from raydc.data import prepared
from raydc.errors import ChaosError, UsageError
from raydc.loop import fault_injection, worker
from raydc.loop.fault_injection import Fault, FaultInjector
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking import events


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


def spec_of(tmp_path: Path, kind: str, **sections: Any) -> Spec:
    model = {"builder": "hidden:network", "arguments": {"kind": kind}}
    return training_spec(str(tmp_path / "store"), model=model, **sections)


# What is found ---------------------------------------------------------------------------------------


def test_a_network_without_hidden_state_is_left_alone(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    little = small.make_spec(spec_of(tmp_path, "good", train={"logical_shards": 3}), 12, 1)
    folder = check_again(little, data, Storage(str(tmp_path / "chaos")))
    assert events.surviving(events.read(folder, "metrics"))[-1]["step"] == 12


@pytest.mark.parametrize(
    ("kind", "culprit", "reason"),
    [
        (
            "counting",
            "body.2 (Counting, hidden.py:",
            r"body.2.num_calls is \d+ the first time and \d+ the second",
        ),
        (
            "forgetting",
            "body.2 (Forgetting, hidden.py:",
            "its buffer body.2.mean differs, which is in no checkpoint",
        ),
        ("random", "body.2 (Drawing, hidden.py:", "it draws from Python's `random`"),
        ("numpy", "body.2 (Drawing, hidden.py:", "it draws from `numpy.random`"),
        (
            "builder",
            "body.1 (Linear",
            "has another first bias when it is built again with the same seed",
        ),
        ("odd", "body.1 (Linear", "the gradient of body.1.weight in"),
        (
            "unrestored",
            "body.2 (Unrestored, hidden.py:",
            "has another gain after its weights were restored",
        ),
    ],
)
def test_hidden_state_is_named(
    tmp_path: Path, data: prepared.Prepared, kind: str, culprit: str, reason: str
) -> None:
    little = small.make_spec(spec_of(tmp_path, kind, train={"logical_shards": 3}), 12, 1)
    with pytest.raises(ChaosError, match=reason) as caught:
        check_again(little, data, Storage(str(tmp_path / "chaos")))
    assert culprit in caught.value.message
    assert caught.value.hint


def test_the_step_that_differs_is_named(tmp_path: Path, data: prepared.Prepared) -> None:
    # The 31st pass of three a step is the first of step 11; the resumed run has done 6 steps less.
    little = small.make_spec(spec_of(tmp_path, "counting", train={"logical_shards": 3}), 12, 1)
    with pytest.raises(ChaosError, match="step 11 differs when it is done after a resume"):
        check_again(little, data, Storage(str(tmp_path / "chaos")))


# The small run ---------------------------------------------------------------------------------------


def test_the_small_run_has_three_epochs_and_a_short_last_step() -> None:
    assert small.rows_of(24, 32, 4, 10**6) == 7 * 32 + 16
    assert order.num_steps(small.rows_of(24, 32, 4, 10**6), 32) == 8
    assert small.rows_of(24, 4, 4, 10**6) == 7 * 4 + 4
    assert small.rows_of(24, 32, 4, 100) == 100


def test_the_small_spec_keeps_what_makes_the_model(tmp_path: Path) -> None:
    train = {
        "epochs": 50,
        "early_stop": {"patience": 1},
        "optimizer": "sgd",
        "gradient_clip_norm": 1.0,
    }
    given = spec_of(
        tmp_path, "good", train=train, serve={}, scaling={"num_workers": {"min": 1, "max": 3}}
    )
    little = small.make_spec(given, 24, 9)
    assert (little.train.max_steps, little.train.epochs, little.train.early_stop) == (
        24,
        None,
        None,
    )
    assert (little.checkpoint.every_steps, little.fault_tolerance.max_failures, little.serve) == (
        3,
        9,
        None,
    )
    same = ("optimizer", "gradient_clip_norm", "global_batch_size", "logical_shards")
    assert all(getattr(little.train, name) == getattr(given.train, name) for name in same)
    assert (little.model, little.scaling) == (given.model, given.scaling)
    with pytest.raises(UsageError, match="--steps 3 is too few"):
        small.make_spec(given, 3, 1)


# The schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_follows_from_its_seed_and_fits_the_run(seed: int) -> None:
    choices = (
        schedule.WORKER,
        schedule.CHECKPOINT,
        schedule.RESTORE,
        schedule.DRIVER,
        schedule.RESIZE,
    )
    drawn = schedule.draw(seed, 5, 24, choices, 4)
    assert drawn == schedule.draw(seed, 5, 24, choices, 4)
    kills = [fault for fault in drawn if fault.place != fault_injection.RESTORED]
    steps = [fault.step for fault in kills]
    assert steps == sorted(set(steps))
    assert min(steps) >= 2
    assert 12 <= max(steps) < 24
    assert len(kills) == 5
    assert sorted(fault.kind for fault in drawn) == [
        "driver",
        "resize",
        "worker",
        "worker",
        "worker",
        "worker",
    ]
    assert all(1 <= (fault.workers or 1) <= 4 and 0 <= fault.rank < 4 for fault in drawn)


def test_schedules_differ_and_must_fit() -> None:
    drawn = {tuple(schedule.draw(seed, 4, 24, schedule.CHOICES[:5], 4)) for seed in range(20)}
    assert len(drawn) == 20
    with pytest.raises(UsageError, match="13 kills do not fit into 24 steps"):
        schedule.draw(0, 13, 24, [schedule.WORKER], 1)


def test_what_a_spec_can_have(tmp_path: Path) -> None:
    alone, workers = (
        spec_of(tmp_path, "good"),
        spec_of(tmp_path, "good", scaling={"num_workers": 2}),
    )
    assert choices_of(alone, 0, ()) == ["worker", "checkpoint", "restore"]
    assert choices_of(workers, 2, ()) == ["worker", "checkpoint", "restore", "driver", "resize"]
    assert choices_of(workers, 2, ("resize", "worker")) == ["worker", "resize"]
    assert "resize" not in choices_of(spec_of(tmp_path, "good", train={"exact": False}), 2, ())
    with pytest.raises(UsageError, match="--only driver: this spec cannot have it here"):
        choices_of(alone, 0, ("driver",))


# The faults ------------------------------------------------------------------------------------------


def test_a_fault_fires_once_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(
        "raydc.loop.fault_injection.os.kill", lambda pid, signal: killed.append(signal)
    )
    folder = Storage(str(tmp_path / "run"))
    one, two, three = (
        Fault("1", "worker", "step", 5, rank=3),
        Fault("2", "worker", "moved", 4),
        None,
    )
    three = Fault("3", "worker", "restored", 2)
    fault_injection.plan(folder, [one, two, three])
    other, mine = FaultInjector(folder, 0, 2), FaultInjector(folder, 1, 2)
    for step in range(1, 8):
        mine.before_step(step)
        mine.reached("moved")
        assert sorted(fault_injection.fired(folder)) == (["1"] if step >= 5 else [])
    other.before_step(4)
    other.reached("moved")
    assert sorted(fault_injection.fired(folder)) == ["1"]
    other.before_step(5)
    other.reached("copied")
    other.reached("moved")
    other.restored(1)
    assert sorted(fault_injection.fired(folder)) == ["1", "2"]
    other.restored(2)
    for _ in range(2):
        FaultInjector(folder, 1, 2).before_step(5)
    assert sorted(fault_injection.fired(folder)) == ["1", "2", "3"]
    assert len(killed) == 3
    assert fault_injection.fired(folder)["1"]["step"] == 4


def test_other_runs_have_no_faults(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    nothing = FaultInjector(folder, 0, 1)
    nothing.before_step(1)
    nothing.restored(1)
    nothing.reached("moved")
    assert folder.names() == []


# The comparison --------------------------------------------------------------------------------------


def ending(tmp_path: Path, data: prepared.Prepared, name: str, **train: Any) -> compare.Ending:
    little = small.make_spec(spec_of(tmp_path, "good", train=train), 12, 1)
    folder = Storage(str(tmp_path / name))
    worker.fit(little, folder, data.folder)
    return compare.read(folder, little, NUM_ROWS["train"])


def test_equal_runs_have_no_differences(tmp_path: Path, data: prepared.Prepared) -> None:
    one, other = ending(tmp_path, data, "one"), ending(tmp_path, data, "other")
    assert one.weights == other.weights
    assert (compare.differences(one, other), one.rows) == ([], [])


def test_differences_are_told(tmp_path: Path, data: prepared.Prepared) -> None:
    one, other = ending(tmp_path, data, "one"), ending(tmp_path, data, "other", learning_rate=2e-2)
    said = compare.differences(one, other)
    assert said[0].startswith("the loss differs from step 2 on: ")
    assert "tensors of model.safetensors differ, the first is" in said[1]
    assert "of optimizer.safetensors differ" in said[2]


def test_the_ledger_finds_lost_and_repeated_steps(tmp_path: Path, data: prepared.Prepared) -> None:
    ending(tmp_path, data, "one")
    history = events.surviving(events.read(Storage(str(tmp_path / "one")), "metrics"))
    check = (0, NUM_ROWS["train"], 32)
    assert ledger.violations(history, *check) == []
    steps = [record for record in history if record["kind"] == "step"]
    assert ledger.violations(steps[:4] + steps[5:], *check) == [
        "step 5 is missing, or not in its place"
    ]
    repeated = [*steps[:5], {**steps[4], "step": 6}, *steps[6:]]
    assert ledger.violations(repeated, *check) == ["step 6 has used 32 rows that are not its own"]
    assert ledger.violations(steps, 1, NUM_ROWS["train"], 32)
