"""`raydc chaos`: real deaths of drivers and workers, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import chaos, engine
from raydc.chaos import schedule, shrink
from raydc.chaos.drill import Drill
from raydc.data import prepared
from raydc.errors import ChaosError, RunError
from raydc.loop.fault_injection import Fault
from raydc.spec.sections import Spec
from raydc.storage import Storage

NOWHERE = engine.Engine(True, "", 1, {"CPU": 4.0})


@pytest.fixture
def data(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> prepared.Prepared:
    monkeypatch.chdir(root / "tests")  # Where drivers and workers find the builders.
    return prepared.load(write_pictures(Storage(str(tmp_path / "data"))))


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[engine.Engine]:
    yield engine.connect(num_cpus=4)
    engine.disconnect()


def spec_of(tmp_path: Path, kind: str, **sections: Any) -> Spec:
    model = {"builder": "hidden:network", "arguments": {"kind": kind}}
    return training_spec(str(tmp_path / "store"), model=model, **sections)


def test_chaos_one_killed_process_ends_as_undisturbed(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    spec, lines = spec_of(tmp_path, "good", train={"logical_shards": 2}), []
    storage = Storage(spec.storage)
    options = chaos.Options(num_steps=12, seed=1, num_kills=1, only=("restore",))
    chaos.run(spec, data, storage, NOWHERE, lines.append, options)
    assert lines[-1].startswith("done      2 fault(s) survived; a new step after ")
    assert any("while it restored" in line for line in lines)
    assert "chaos     every row was used exactly once, in its place" in lines
    assert storage.names("runs") == ["short-chaos"]
    (storage / "runs" / "short-chaos").write_bytes("resolved.yaml", b"")
    with pytest.raises(RunError, match="holds a run of yours"):
        chaos.run(spec, data, storage, NOWHERE, lines.append, options)


@pytest.mark.soak
def test_chaos_survives_killed_and_resized_workers_and_drivers(
    tmp_path: Path, data: prepared.Prepared, ray_engine: engine.Engine
) -> None:
    spec, lines = (
        spec_of(tmp_path, "good", scaling={"num_workers": 2}, train={"logical_shards": 4}),
        [],
    )
    options = chaos.Options(num_steps=12, seed=0, num_kills=2, only=("worker", "resize"))
    chaos.run(spec, data, Storage(spec.storage), ray_engine, lines.append, options)
    assert lines[-1].startswith("done      2 fault(s) survived; a new step after ")
    kinds = schedule.draw(0, 2, 12, ["worker", "resize"], 4)
    assert sorted(fault.kind for fault in kinds) == ["resize", "worker"]
    assert sum("killed in step" in line for line in lines) == 2


@pytest.mark.soak
def test_chaos_survives_killed_and_drained_nodes(tmp_path: Path, data: prepared.Prepared) -> None:
    sections = {"scaling": {"num_workers": {"min": 1, "max": 2}}, "train": {"logical_shards": 4}}
    spec, lines = spec_of(tmp_path, "good", **sections), []
    options = chaos.Options(num_steps=12, seed=0, num_kills=2, only=("node", "drain"))
    with chaos.Nodes(2) as nodes:
        connected = engine.connect(nodes.address)
        chaos.run(spec, data, Storage(spec.storage), connected, lines.append, options, nodes)
    assert lines[-1].startswith("done      2 fault(s) survived; a new step after ")
    assert sum("node of worker" in line for line in lines) == 2


def test_chaos_reports_a_driver_that_fails_by_itself(
    tmp_path: Path, data: prepared.Prepared
) -> None:
    little = shrink.shrink_spec(spec_of(tmp_path, "good"), 12, 1)
    broken = Storage(str(tmp_path / "broken"))
    drill = Drill(little, broken, data.folder, "")
    broken.write_bytes("resolved.json", json.dumps({"name": "x"}).encode())
    with pytest.raises(ChaosError, match="exit code 2 although no fault had killed it") as caught:
        drill.run([Fault("0", "worker", "step", 3)])
    assert "data: required, but not given" in caught.value.message
