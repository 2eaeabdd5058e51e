"""Runs of a storage: state, progress and dependencies, from few and possibly damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from stores import DATA_HASH, make_run, make_storage

from raydc.cli import run_inventory, store_listing
from raydc.cli.store_listing import StoreListing
from raydc.errors import RunError
from raydc.storage import Storage
from raydc.tracking import events, lease


def read(storage: Storage, name: str) -> run_inventory.Run:
    return run_inventory.read_run(StoreListing(storage), name)


def test_finished_run_shows_progress_scores_and_data_set(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    (storage / "runs/digits").write_json("evaluation.json", {"accuracy": 0.8, "split": "test"})
    run = read(storage, "digits")
    assert (run.state, run.epoch, run.step, run.driver) == ("finished", 1, 3, None)
    assert run.validation == {"accuracy": 0.9, "loss": 0.4}
    assert run.held_out == {"accuracy": 0.8}
    assert run.data_set == "digits-0123456789ab"
    assert run.has_scalars
    assert not run.may_resume


def test_driven_run_is_running_until_the_driver_ends(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    folder = make_run(storage, finished=False)
    with lease.hold(folder):
        run = read(storage, "digits")
        assert run.state == "running"
        assert "process" in (run.driver or "")
    assert read(storage, "digits").state == "unfinished"
    assert read(storage, "digits").may_resume


def test_run_that_was_set_aside_keeps_its_name_and_may_not_resume(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    make_run(storage, "digits.1", finished=False, spec_name="digits")
    run = read(storage, "digits.1")
    assert (run.spec_name, run.data_set) == ("digits", "digits-0123456789ab")
    assert not run.may_resume


def test_sweep_takes_its_data_set_from_a_trial(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    folder = make_run(storage, finished=False, data_hash=None)
    for key in ("aa", "bb"):
        lock = yaml.safe_dump({"data_hash": DATA_HASH}).encode()
        folder.write_bytes(f"sweep/trials/{key}/run.lock.yaml", lock)
    events.EventLog(folder, "events").write(kind="sweep_finished", trials=2)
    run = read(storage, "digits")
    assert (run.state, run.num_trials, run.data_set) == ("finished", 2, "digits-0123456789ab")


@pytest.mark.parametrize("place", ["store", "why? [1]"])
def test_fork_names_its_origin_and_the_origin_its_forks(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir()
    storage = make_storage(tmp_path / place)
    origin = storage / "runs" / "digits"
    fork = {"run": "digits", "step": 3, "uri": origin.uri, "data_hash": DATA_HASH}
    make_run(storage, "other").write_json("fork.json", fork)
    assert read(storage, "other").forked_from == "digits:3"
    assert run_inventory.forks_of(StoreListing(storage), "digits") == ["other"]
    assert run_inventory.forks_of(StoreListing(storage), "other") == []


def test_damaged_small_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    make_run(storage, "broken")
    for name in ("resolved.yaml", "evaluation.json", "events.jsonl", "fork.json"):
        (storage / "runs/broken").write_bytes(name, b"{\xff: broken")
    listing = StoreListing(storage)
    broken, good = run_inventory.read_runs(listing)
    assert (good.name, good.state) == ("digits", "finished")
    assert (broken.name, broken.step, broken.extent.num_files > 5) == ("broken", 3, True)
    named = {line.split(":")[0] for line in listing.damaged}
    assert named == {
        f"runs/broken/{name}"
        for name in ("resolved.yaml", "evaluation.json", "events.jsonl", "fork.json")
    }


def test_last_epoch_before_the_end_of_a_long_log_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_listing, "_FIRST_PART_BYTES", 500)
    storage = Storage(str(tmp_path))
    metrics = events.EventLog(make_run(storage), "metrics")
    for step in range(4, 100):
        metrics.write(kind="step", split="train", step=step, epoch=2, loss=0.1)
    run = read(storage, "digits")
    assert (run.step, run.epoch, run.validation["accuracy"]) == (99, 2, 0.9)


def test_unknown_run_is_refused_with_similar_names(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    with pytest.raises(RunError, match="no run 'digit'") as caught:
        read(storage, "digit")
    assert "Did you mean digits?" in str(caught.value)
