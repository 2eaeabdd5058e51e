"""Small files of a run that are damaged or gone: left out or fallen back from, and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from training import event_kinds, resume_run, train_one_epoch, training_spec, weights_hash

from raydc import spec as specs
from raydc.checkpoint import run_files, run_name
from raydc.data import prepared
from raydc.errors import RunError
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, sha256
from raydc.tracking import events


@pytest.fixture
def run(runs: Storage, data: prepared.Prepared) -> tuple[ResolvedSpec, Storage]:
    """A run of one epoch, to be continued with a second one."""
    return train_one_epoch(runs, data)


def append(folder: Storage, name: str, text: bytes) -> None:
    with (folder.local_path / name).open("ab") as file:
        file.write(text)


@pytest.mark.parametrize("stem", ["events", "metrics"])
def test_bad_lines_of_a_log_are_left_out_and_named(
    run: tuple[ResolvedSpec, Storage], data: prepared.Prepared, stem: str
) -> None:
    spec, folder = run
    before = weights_hash(folder, 7)
    bad = [b"123", b"[]", b"{", b"\xff", b'{"kind":"time","time_s":1}', b'{"kinf":"step"}', b"null"]
    first = len(folder.read_bytes(f"{stem}.jsonl").splitlines()) + 1
    append(folder, f"{stem}.jsonl", b"\n".join(bad) + b"\n")
    lines = resume_run(spec, data, folder)
    for number in range(first, first + len(bad)):
        place = f"{folder.uri}/{stem}.jsonl: line {number}"
        assert f"train     {place} cannot be read and is left out" in lines
    assert weights_hash(folder, 7) == before


@pytest.mark.parametrize("stem", ["events", "metrics"])
def test_log_that_is_gone_is_noticed(
    run: tuple[ResolvedSpec, Storage], data: prepared.Prepared, stem: str
) -> None:
    spec, folder = run
    folder.delete(f"{stem}.jsonl")
    lines = "\n".join(resume_run(spec, data, folder))
    assert f"{folder.uri}/{stem}.jsonl has " in lines
    assert "changes no weights" in lines


def test_undamaged_run_says_nothing(
    run: tuple[ResolvedSpec, Storage], data: prepared.Prepared
) -> None:
    spec, folder = run
    lines = "\n".join(resume_run(spec, data, folder))
    for word in ("left out", "changes no weights", "damaged", "lost"):
        assert word not in lines


@pytest.mark.parametrize("content", [b"{: [\n\x00", b"- 1\n", b"\xff\xfe"])
def test_damaged_lock_file_is_named_and_written_again(
    run: tuple[ResolvedSpec, Storage], data: prepared.Prepared, content: bytes
) -> None:
    spec, folder = run
    intact = folder.read_bytes("run.lock.yaml")
    folder.write_bytes("run.lock.yaml", content)
    lines = "\n".join(resume_run(spec, data, folder))
    assert "run.lock.yaml cannot be read and is written again" in lines
    assert "file_damaged" in event_kinds(folder)
    assert folder.read_bytes("run.lock.yaml") == intact


def test_moved_store_is_no_change_of_the_environment(
    runs: Storage, run: tuple[ResolvedSpec, Storage], data: prepared.Prepared, tmp_path: Path
) -> None:
    assert run[1].uri == (runs / "first").uri
    runs.move("first", "moved")
    moved = training_spec(str(tmp_path / "elsewhere"), name="first", train={"epochs": 1})
    lines = "\n".join(resume_run(moved, data, runs / "moved"))
    assert "bits may differ" not in lines
    lock = yaml.safe_load((runs / "moved").read_bytes("run.lock.yaml"))
    (runs / "moved").write_bytes("run.lock.yaml", yaml.safe_dump({**lock, "torch": "1.0"}).encode())
    assert "bits may differ: {'torch': ['1.0'" in "\n".join(resume_run(moved, data, runs / "moved"))


def test_changed_builder_is_a_change_of_the_environment(
    runs: Storage, data: prepared.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from torch import nn\n"
        "def make(signature):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, signature.num_outputs))\n"
    )
    module = tmp_path / "locked_networks.py"
    module.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"builder": "locked_networks:make"}
    spec, folder = train_one_epoch(runs, data, "own", model=model)
    lock = yaml.safe_load(folder.read_bytes("run.lock.yaml"))
    assert lock["builder_sha256"] == sha256(code.encode())
    assert "bits may differ" not in "\n".join(resume_run(spec, data, folder))
    module.write_text(code + "# changed\n")
    assert "bits may differ: {'builder_sha256'" in "\n".join(resume_run(spec, data, folder))
    # A lock of a raydc that did not record it says nothing about the builder.
    del lock["builder_sha256"]
    folder.write_bytes("run.lock.yaml", yaml.safe_dump(lock).encode())
    assert "bits may differ" not in "\n".join(resume_run(spec, data, folder))


def test_damaged_origin_of_a_fork_is_left_out_and_named(
    run: tuple[ResolvedSpec, Storage], data: prepared.Prepared
) -> None:
    spec, folder = run
    folder.write_bytes("fork.json", b"{")
    assert f"{folder.uri}/fork.json is left out" in "\n".join(resume_run(spec, data, folder))


@pytest.mark.parametrize("content", [b"{: [\n", b"", b"- 1\n", b"seed: 5\nname: first\n"])
def test_damaged_resolved_spec_is_taken_from_a_checkpoint(
    run: tuple[ResolvedSpec, Storage], content: bytes
) -> None:
    spec, folder = run
    folder.write_bytes(run_name.RESOLVED, content)
    lines: list[str] = []
    run_files.compare_resolved(spec, folder, lines.append)
    assert f"{folder.uri}/resolved.yaml is damaged" in lines[0]
    assert yaml.safe_load(folder.read_bytes(run_name.RESOLVED)) == specs.to_dict(spec)
    # A spec that has changed is refused all the same.
    folder.write_bytes(run_name.RESOLVED, content)
    with pytest.raises(RunError, match="seed: 0 then, 7 now"):
        run_files.compare_resolved(training_spec("x", name="first", seed=7), folder, lines.append)


def test_sweep_that_was_widened_is_not_narrowed_again(tmp_path: Path) -> None:
    folder, lines = Storage(str(tmp_path)), []
    space = {"train.learning_rate": {"choice": [0.1, 0.2]}}

    def resume(num_samples: int) -> None:
        sweep = {"space": space, "num_samples": num_samples}
        run_files.compare_resolved(training_spec("x", sweep=sweep), folder, lines.append)

    run_files.write_spec(training_spec("x", sweep={"space": space, "num_samples": 2}), folder, None)
    resume(5)
    assert lines == ["run       the sweep is widened from 2 to 5 samples"]
    resume(5)
    assert len(lines) == 1
    with pytest.raises(RunError, match="num_samples: 5 then, 4 now"):
        resume(4)


def test_resolved_spec_without_a_copy_is_refused_by_name(
    run: tuple[ResolvedSpec, Storage], runs: Storage
) -> None:
    spec, folder = run
    folder.write_bytes(run_name.RESOLVED, b"{: [\n")
    folder.delete("checkpoints")
    with pytest.raises(RunError, match=r"resolved\.yaml cannot be read") as caught:
        run_files.compare_resolved(spec, folder, lambda _line: None)
    assert "--new" in str(caught.value)
    (folder / "checkpoints").write_bytes("step_00000007/spec.yaml", b"")
    folder.delete(run_name.RESOLVED)
    with pytest.raises(RunError, match=r"resolved\.yaml is missing") as caught:
        run_name.require_run(folder, runs, "first")
    assert "checkpoints/step_*/spec.yaml there is a copy" in str(caught.value)


def test_account_and_failures_bear_records_of_other_versions(tmp_path: Path) -> None:
    from raydc.checkpoint.interval import read_failures
    from raydc.tracking.time_account import add_up

    folder = Storage(str(tmp_path))
    log = events.EventLog(folder, "events")
    log.write(kind="run_started", time_s=1.0)
    log.write(kind="time", since_s=1.0, until_s=3.0, seconds={"usefuk_step": 2.0})
    append(folder, "events.jsonl", b'{"kind":"checkpoint","step":4}\n')
    records = list(events.read(folder, "events"))
    assert add_up(records).wall_s == 2.0
    assert read_failures(records).num_failures == 0
