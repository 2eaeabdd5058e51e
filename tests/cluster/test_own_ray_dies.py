"""A process of the Ray that raydc has started dies, on an isolated host: one line, and --resume."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from driven import PROJECT, WAIT_S, bring_project, find_processes, kill
from isolated import Hosts, wait_until
from training import check_ledger, weights_hash

from raydc import spec as specs
from raydc.data import prepared
from raydc.errors import ClusterError
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events

HOST = 1


def write_spec(folder: Path, name: str) -> str:
    """Writes a spec and its data; returns the place of the spec as the host sees it."""
    rows = [f"{k % 7},{(k * 5) % 11},{'yes' if k % 7 > 3 else 'no'}" for k in range(1000)]
    (folder / "rows.csv").write_text("\n".join(["a,b,answer", *rows]) + "\n")
    spec = {
        "name": name,
        "storage": f"/shared/{name}/store",
        "data": {"source": f"/shared/{name}/rows.csv", "target": "answer"},
        "model": {"builder": "paced:network", "arguments": {"hurry": f"/shared/{name}/hurry"}},
        "train": {"epochs": 8, "global_batch_size": 32},
        "scaling": {"num_workers": 1},
        "checkpoint": {"every_steps": 5},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return f"/shared/{name}/spec.yaml"


@pytest.mark.soak
@pytest.mark.parametrize("program", ["raylet", "gcs_server"])
def test_death_of_the_own_ray_is_one_line_and_resume_goes_on(
    hosts: Hosts, root: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    name = program.replace("_", "-")
    folder = hosts.shared / name
    folder.mkdir()
    bring_project(hosts)
    path, pid_file = write_spec(folder, name), folder / "pid"
    run = Storage(str(folder / "store" / "runs" / name))
    command = f"cd {PROJECT} && echo $$ > /shared/{name}/pid && PYTHONPATH={PROJECT} "
    command += "RAYDC_NO_COLOR=1 exec python -c 'from raydc.cli import main; main()' train "
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(hosts.ssh, HOST, command + path, 2 * WAIT_S)

        def has_saved() -> bool:
            if ended.done():
                raise AssertionError(f"ended by itself: {ended.result()}")
            return any(event["kind"] == "checkpoint" for event in events.read(run, "events"))

        try:
            wait_until(has_saved, "a checkpoint", WAIT_S)
            driver = int(pid_file.read_text())
            (victim,) = find_processes(hosts, HOST, f"/{program} ", parent=driver)
            kill(hosts, HOST, victim)
            done = ended.result()
        finally:
            (folder / "hurry").touch()
    assert done.returncode == ClusterError.exit_code, done.stdout + done.stderr
    # A slow start is a line of its own.
    said = [line for line in done.stderr.splitlines() if line and "waiting for Ray" not in line]
    assert said == [
        f"error: the local Ray has died: {program} (exit code -9)",
        "  --resume goes on",
    ]
    resumed = hosts.ssh(HOST, f"{command}{path} --resume", 2 * WAIT_S)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    monkeypatch.chdir(root / "tests" / "faults")
    spec = specs.resolve(specs.from_dict(yaml.safe_load(run.read_bytes("resolved.yaml"))))
    (data,) = (folder / "store" / "data").iterdir()
    there = prepared.load(Storage(str(data)))
    check_ledger(run, spec, there.num_rows["train"])
    last = max(event["step"] for event in events.read(run, "events") if "step" in event)
    # With the file that the network waits for where this process can see it.
    quick = {"model.arguments": {"hurry": str(folder)}, "scaling.num_workers": 0}
    undisturbed = Storage(str(folder / "undisturbed"))
    assert worker.fit(specs.with_values(spec, quick), undisturbed, there.folder).step == last
    assert weights_hash(run, last) == weights_hash(undisturbed, last)
