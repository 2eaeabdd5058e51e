"""The run folder as the pipeline makes, continues, sets aside and refuses it. Needs no Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_models
from training import training_spec, write_pictures

from raydc import checksummed_folder, pipeline
from raydc.data import prepared
from raydc.engine import Engine
from raydc.errors import CheckpointError, RunError, ServeError, SpecError, UsageError
from raydc.registry import Registry
from raydc.run_context import RunContext, open_context
from raydc.serve.control import early_start
from raydc.serve.control.early_start import EarlyStart
from raydc.storage import Storage
from raydc.tracking import lease


@pytest.fixture
def lines() -> list[str]:
    return []


def make_context(tmp_path: Path, lines: list[str], **sections: object) -> RunContext:
    """The context of a run whose Ray is never called."""
    spec = training_spec(str(tmp_path), name="digits", **sections)
    return RunContext(spec, lambda: Engine(True, "local", 1, {"CPU": 2.0}), lines.append)


def test_new_run_keeps_the_spec_as_written(tmp_path: Path, lines: list[str]) -> None:
    context = make_context(tmp_path, lines)
    assert not pipeline.begin_run(context, "name: digits  # mine\n", resume=False, new=False)
    assert context.run_folder.read_bytes("spec.yaml") == b"name: digits  # mine\n"
    assert b"name: digits" in context.run_folder.read_bytes("resolved.yaml")
    assert not context.run_folder.exists(lease.FILE)


def test_existing_run_is_neither_overwritten_nor_continued(
    tmp_path: Path, lines: list[str]
) -> None:
    context = make_context(tmp_path, lines)
    pipeline.begin_run(context, None, resume=False, new=False)
    with pytest.raises(RunError, match="run 'digits' exists already") as caught:
        pipeline.begin_run(context, None, resume=False, new=False)
    assert all(flag in str(caught.value) for flag in ("--resume", "--new", "--set name="))
    assert pipeline.begin_run(context, None, resume=True, new=False)


def test_resume_with_another_spec_is_refused(tmp_path: Path, lines: list[str]) -> None:
    pipeline.begin_run(make_context(tmp_path, lines), None, resume=False, new=False)
    changed = make_context(tmp_path, lines, seed=7)
    with pytest.raises(RunError, match="seed"):
        pipeline.begin_run(changed, None, resume=True, new=False)


def test_new_sets_the_existing_run_aside_under_a_free_name(
    tmp_path: Path, lines: list[str]
) -> None:
    context = make_context(tmp_path, lines)
    for _ in range(3):
        pipeline.begin_run(context, None, resume=False, new=True)
    assert (context.storage / "runs").names() == ["digits", "digits.1", "digits.2"]
    assert not context.storage.exists(f"runs/digits.1/{lease.FILE}")
    assert lines == [
        "run       the previous run is now digits.1",
        "run       the previous run is now digits.2",
    ]


def test_driver_that_died_while_it_made_the_folder_is_no_obstacle(
    tmp_path: Path, lines: list[str]
) -> None:
    context = make_context(tmp_path, lines)
    context.run_folder.write_bytes("spec.yaml", b"")
    context.run_folder.write_bytes(lease.LOCK_FILE, b"")
    assert not pipeline.begin_run(context, None, resume=False, new=False)


def test_dashboard_of_a_cluster_is_refused_before_it_is_reached(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = training_spec(str(tmp_path))
    with pytest.raises(UsageError, match="--dashboard is for a local Ray"):
        open_context(spec, "localhost:1", lines.append, dashboard=True)
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    with pytest.raises(UsageError, match="--dashboard is for a local Ray"):
        open_context(spec, None, lines.append, dashboard=True)


def test_bundle_that_does_not_compute_its_golden_rows_is_not_registered(
    tmp_path: Path, lines: list[str]
) -> None:
    context = make_context(tmp_path, lines)
    folder = context.run_folder / "model"
    small_models.write_bundle(folder, small_models.table_features(), name="digits")
    meta, files = checksummed_folder.read_checksummed(folder)
    golden = json.loads(files["golden.json"])
    golden["outputs"][0][0] += 1.0
    folder.delete()
    changed = {**files, "golden.json": json.dumps(golden).encode()}
    checksummed_folder.write_checksummed(folder, changed, meta)
    with pytest.raises(CheckpointError, match=r"golden rows\[0\]: output 'no' is"):
        pipeline.register_model(context, folder, {})
    assert not Registry(context.storage).versions("digits")
    folder.delete()
    checksummed_folder.write_checksummed(folder, files, meta)
    assert pipeline.register_model(context, folder, {}) == 1


@pytest.mark.parametrize("hint", [None, "Choose another port."])
def test_failed_endpoint_of_a_run_says_how_to_go_on(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, hint: str | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServeError("no endpoint", hint)

    monkeypatch.setattr("raydc.serve.deploy", fail)
    with pytest.raises(ServeError) as caught:
        pipeline.serve_registered(make_context(tmp_path, lines, serve={"port": 0}), 3)
    assert str(caught.value).endswith("digits version 3 is registered: `raydc serve SPEC` goes on.")
    assert (hint or "") in str(caught.value)


def test_weight_of_an_unknown_class_is_refused_before_the_run(
    tmp_path: Path, lines: list[str]
) -> None:
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    loss = {"name": "focal", "class_weights": {"unknown": 2.0}}
    context = make_context(tmp_path, lines, train={"epochs": 1, "loss": loss})
    with pytest.raises(SpecError, match=r"train\.loss\.class_weights: 'unknown' is not one of"):
        pipeline.check_model(context, data)


def test_run_that_fails_waits_for_the_start_of_serve_before_ray_ends(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tmp_path, lines, serve={"port": 0})
    left: list[str] = []

    class Recorded(EarlyStart):
        def __init__(self, *_: object) -> None:
            """Starts nothing."""

        def leave(self) -> None:
            left.append("left")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(early_start, "EarlyStart", Recorded)
    for stage in ("prepare_data", "check_model", "load_fork"):
        monkeypatch.setattr(pipeline, stage, lambda *_: None)
    monkeypatch.setattr(pipeline, "train_model", fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(context, "name: digits\n", resume=False, new=False)
    assert left == ["left"]
