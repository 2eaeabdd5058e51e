"""Training on Ray Train workers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import ray
from training import (
    NUM_ROWS,
    check_ledger,
    event_kinds,
    training_spec,
    weights_hash,
    write_pictures,
)

from raydc import bundle, engine, order, train
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.elastic import mailbox
from raydc.errors import ClusterError, RunError, TrainError
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events

pytestmark = pytest.mark.usefixtures("ray_engine")


@pytest.fixture
def data(tmp_path: Path) -> prepared.Prepared:
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


@pytest.fixture
def builder(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Section `model` of the network that fails on purpose."""
    monkeypatch.chdir(root / "tests" / "faults")
    return {
        "builder": "dying:network",
        "arguments": {"folder": str(tmp_path), "faults": {}, "fault": "bug"},
    }


def test_train_two_workers_leave_a_bundle(tmp_path: Path, data: prepared.Prepared) -> None:
    spec = training_spec(str(tmp_path), scaling={"num_workers": 2})
    run, lines = Storage(str(tmp_path / "run")), []
    result = train.run(spec, data, run, lines.append)
    assert (result.steps, result.epochs, result.reason, result.restarts) == (21, 3, "completed", 0)
    check_ledger(run, spec)
    assert event_kinds(run)[0] == "run_started"
    assert event_kinds(run).count("attempt_started") == 1
    assert not run.exists("ray")
    assert run.exists("run.lock.yaml")
    assert any(line.startswith("train     epoch 3") for line in lines)
    loaded = bundle.load(run / "model")
    x, y = open_rows(data.folder, "validation").gather(
        open_rows(data.folder, "validation").ids - 200
    )
    accuracy = float((loaded.forward(x).argmax(axis=1) == y).mean())
    assert accuracy == pytest.approx(result.metrics["accuracy"])
    assert loaded.facts["data_hash"] == data.data_hash
    with pytest.raises(RunError, match="trained already"):
        train.run(spec, data, run, lines.append)
    alone = Storage(str(tmp_path / "alone"))
    worker.fit(training_spec(str(tmp_path), train={"logical_shards": 2}), alone, data.folder)
    assert weights_hash(alone, 21) == weights_hash(run, 21)


# By default the kill of a driver compares the two: tests/faults/test_kill.py.
@pytest.mark.soak
def test_train_one_worker_equals_the_calling_process(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    there, here = Storage(str(tmp_path / "there")), Storage(str(tmp_path / "here"))
    train.run(
        training_spec(str(tmp_path), scaling={"num_workers": 1}), data, there, lambda line: None
    )
    worker.fit(training_spec(str(tmp_path)), here, data.folder)
    assert weights_hash(there, 21) == weights_hash(here, 21)


def test_train_does_not_retry_a_deliberate_error(tmp_path: Path, data: prepared.Prepared) -> None:
    diverging = {"optimizer": "sgd", "learning_rate": 1e30}
    spec = training_spec(str(tmp_path), train=diverging, scaling={"num_workers": 1})
    run = Storage(str(tmp_path / "run"))
    with pytest.raises(TrainError, match="the loss is"):
        train.run(spec, data, run, lambda line: None)
    assert event_kinds(run).count("attempt_started") == 1


@pytest.mark.soak
def test_train_ends_at_the_third_equal_failure(
    tmp_path: Path, data: prepared.Prepared, builder: dict[str, Any]
) -> None:
    builder["arguments"]["faults"] = {"0": [6]}
    # Without checkpoints and recent states between, on storage or in memory, each attempt reaches
    # the same step.
    tolerance = {"max_failures": -1, "max_recomputed_steps": 0}
    spec = training_spec(
        str(tmp_path), model=builder, scaling={"num_workers": 1}, fault_tolerance=tolerance
    )
    spec = spec.model_copy(
        update={"checkpoint": spec.checkpoint.model_copy(update={"every_steps": 100})}
    )
    run = Storage(str(tmp_path / "run"))
    with pytest.raises(TrainError) as caught:
        train.run(spec, data, run, lambda line: None)
    rows = order.batch_rows(spec.seed, 0, 5, NUM_ROWS["train"], 32).tolist()
    page = caught.value.message.splitlines()
    assert page[0] == (
        f"rank 0 on {socket.gethostname()} failed after step 5, its 32 training rows there: "
        f"{', '.join(map(str, rows))}"
    )
    assert page[1] == "  ValueError: the cat sat on the tensor"
    assert "dying.py:" in page[2]
    assert "num_workers=0" in (caught.value.hint or "")
    assert event_kinds(run).count("attempt_started") == 3
    causes = [
        record["cause"]
        for record in events.read(run, "events")
        if record["kind"] == "attempt_ended"
    ]
    assert causes == ["error"] * 3


def test_train_waits_for_resources_up_to_start_timeout(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    holder = ray.remote(num_cpus=3.5)(mailbox.Mailbox).remote()
    ray.get(holder.collect.remote())
    scaling = {"num_workers": 1, "start_timeout_s": 0.5}
    lines: list[str] = []
    with pytest.raises(
        ClusterError, match=r"after 0.5 s there is still room for 0 of at least 1 worker"
    ):
        train.run(
            training_spec(str(tmp_path), scaling=scaling),
            data,
            Storage(str(tmp_path / "run")),
            lines.append,
        )
    assert any("waiting: room for 0 of at least 1" in line for line in lines)
    ray.kill(holder)


def test_train_refuses_more_workers_than_fit(tmp_path: Path, data: prepared.Prepared) -> None:
    total = engine.connect().resources["CPU"]
    spec = training_spec(
        str(tmp_path), scaling={"num_workers": 2, "resources_per_worker": {"CPU": total}}
    )
    with pytest.raises(ClusterError, match=r"2 worker\(s\) of 4 CPU each do not fit into 4 CPU"):
        train.run(spec, data, Storage(str(tmp_path / "run")), lambda line: None)
