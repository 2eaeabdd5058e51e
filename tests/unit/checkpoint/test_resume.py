"""What --resume refuses, and what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from training import event_kinds, resume_run, train_one_epoch, training_spec, write_pictures

from raydc import spec as specs
from raydc import train
from raydc.checkpoint import resume, run_name
from raydc.cli import run_inventory
from raydc.cli.store_listing import StoreListing
from raydc.data import prepared
from raydc.errors import CheckpointError, RunError
from raydc.storage import Storage
from raydc.tracking import lease


def test_require_run_for_unknown_name_suggests_similar_ones(runs: Storage) -> None:
    with pytest.raises(RunError, match=r"there is no run 'digit' at .*/digit; there is none"):
        run_name.require_run(runs / "digit", runs, "digit")
    for name in ("digits", "adult"):
        (runs / name).write_bytes("resolved.yaml", b"")
    with pytest.raises(RunError, match=r"there are: digits\n") as caught:
        run_name.require_run(runs / "digit", runs, "digit")
    assert "raydc runs" in (caught.value.hint or "")
    run_name.require_run(runs / "digits", runs, "digits")


def test_refuse_other_spec_names_each_changed_field_with_both_values() -> None:
    spec = training_spec(
        "x", train={"optimizer": {"name": "sgd", "momentum": 0.5}, "learning_rate": 0.01}
    )
    before = specs.to_dict(training_spec("y", seed=3, train={"gradient_clip_norm": 2.0}))
    with pytest.raises(RunError) as caught:
        resume.refuse_other_spec(spec, before)
    assert caught.value.message.splitlines()[1:] == [
        "    seed: 3 then, 0 now",
        "    train.gradient_clip_norm: 2.0 then, not given now",
        "    train.optimizer.momentum: 0.0 then, 0.5 now",
        "    train.optimizer.name: 'adamw' then, 'sgd' now",
    ]
    assert "--new" in (caught.value.hint or "")
    other = training_spec(
        "z", scaling={"num_workers": 3}, checkpoint={"num_to_keep": 1}, train={"logical_shards": 3}
    )
    with pytest.raises(RunError, match=r"logical_shards: 3 then, 1 now") as caught:
        resume.refuse_other_spec(training_spec("x"), specs.to_dict(other))
    assert "--set train.logical_shards=3" in (caught.value.hint or "")


SWEEP = {
    "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-1]}},
    "num_samples": 4,
    "max_concurrent_trials": 2,
}


def test_sweep_may_be_widened_and_run_at_any_concurrency() -> None:
    before = specs.to_dict(training_spec("x", sweep=SWEEP))
    for change in ({"num_samples": 6}, {"max_concurrent_trials": 1}):
        resume.refuse_other_spec(training_spec("x", sweep={**SWEEP, **change}), before)
    unlimited = {name: SWEEP[name] for name in ("space", "num_samples")}
    resume.refuse_other_spec(training_spec("x", sweep=unlimited), before)


def test_sweep_of_an_older_raydc_has_the_default_type_of_scheduler() -> None:
    before = specs.to_dict(training_spec("x", sweep=SWEEP))
    del before["sweep"]["scheduler"]["type"]
    del before["sweep"]["search_alg"], before["sweep"]["lag"]
    resume.refuse_other_spec(training_spec("x", sweep=SWEEP), before)
    promoting = training_spec("x", sweep={**SWEEP, "scheduler": {"type": "promotion"}})
    with pytest.raises(RunError, match=r"sweep\.scheduler\.type: .*'promotion' now"):
        resume.refuse_other_spec(promoting, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_samples": 3}, "sweep.num_samples: 4 then, 3 now"),
        ({"scheduler": "fifo"}, "sweep.scheduler.name: 'asha' then, 'fifo' now"),
        ({"space": {"train.learning_rate": {"choice": [0.1]}}}, "sweep.space.train.learning_rate"),
        ({"search_alg": "tpe"}, "sweep.search_alg: 'random' then, 'tpe' now"),
    ],
    ids=["fewer samples", "another scheduler", "another space", "another algorithm"],
)
def test_sweep_with_other_trials_or_prunings_is_refused(change: dict[str, Any], said: str) -> None:
    before = specs.to_dict(training_spec("x", sweep=SWEEP))
    with pytest.raises(RunError, match=re.escape(said)) as error:
        resume.refuse_other_spec(training_spec("x", sweep={**SWEEP, **change}), before)
    narrower = "A sweep can be widened, not narrowed."
    assert (narrower in str(error.value.hint)) == ("num_samples" in change)


def test_resume_with_other_data_is_refused_before_workers_start(
    tmp_path: Path, runs: Storage, data: prepared.Prepared
) -> None:
    spec, folder = train_one_epoch(runs, data)
    other = prepared.load(write_pictures(Storage(str(tmp_path / "other")), seed=1))
    attempts = event_kinds(folder).count("attempt_started")
    with pytest.raises(
        RunError, match=rf"data set {data.data_hash[:12]}, but .* is {other.data_hash[:12]}"
    ):
        resume_run(spec, other, folder)
    assert event_kinds(folder).count("attempt_started") == attempts


def test_resume_with_lost_checkpoints_is_refused(runs: Storage, data: prepared.Prepared) -> None:
    spec, folder = train_one_epoch(runs, data)
    folder.delete("checkpoints")
    with pytest.raises(
        CheckpointError,
        match=r"has written 2 checkpoints, the last after step 7, but .* holds none",
    ):
        resume_run(spec, data, folder)


def test_resume_without_any_checkpoint_says_that_it_starts(
    runs: Storage, data: prepared.Prepared
) -> None:
    spec = training_spec("x", train={"epochs": 1})
    first_line = resume_run(spec, data, runs / "new")[0]
    assert first_line == "train     no checkpoint was written before; starting at step 0"


def test_resume_of_a_run_driven_elsewhere_is_refused(
    runs: Storage, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = train_one_epoch(runs, data)

    def state() -> str:
        storage = Storage(str(folder.local_path.parent.parent))
        return run_inventory.read_run(StoreListing(storage), folder.local_path.name).state

    assert state() == "finished"
    with lease.hold(folder):
        assert state() == "running"
        with monkeypatch.context() as patch:
            # As another process sees it.
            patch.setattr(lease, "_held", {})
            with pytest.raises(RunError, match=r"is driven by process \d+ on"):
                resume_run(spec, data, folder)


def test_driver_that_lost_the_run_writes_no_checkpoint(
    runs: Storage, data: prepared.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = runs / "run", train.CheckpointStore.write

    def taken_over(store: Any, step: int, *arguments: Any) -> str:
        if step == 4:
            folder.write_json(
                lease.FILE,
                {**vars(lease.read_driver(folder)), "token": "other", "host": "far", "pid": 7},
            )
        return write(store, step, *arguments)

    monkeypatch.setattr(train.CheckpointStore, "write", taken_over)
    with pytest.raises(RunError, match="taken over by process 7 on far"):
        train.run(training_spec("x", train={"epochs": 2}), data, folder, lambda line: None)
    # Not even the one on its way: the last look is right before the commit.
    assert train.CheckpointStore(folder / "checkpoints", 3).steps() == []
