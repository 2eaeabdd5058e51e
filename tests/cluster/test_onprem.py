"""Ray's launcher, the submit script and the job server on two hosts, as a user types the commands.

The tests of this file follow one cluster from `ray up` to `ray down` and run in this order.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from isolated import ROOT, Cluster, Hosts, wait_until
from training import check_ledger

from raydc import spec as specs
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.storage import Storage
from raydc.tracking import events

SPEC = "examples/digits/spec.yaml"
STORAGE = "/shared/runs"
# One worker on each host leaves room for the replica, which answers calls from outside.
OVERRIDES = {
    "storage": STORAGE,
    "scaling.num_workers": "2",
    "train.epochs": "2",
    "serve.host": "0.0.0.0",
    "serve.ray_actor_options.num_cpus": "0.1",
}
SETS = [part for path, value in OVERRIDES.items() for part in ("--set", f"{path}={value}")]


@pytest.fixture(scope="module")
def cluster(launcher: Cluster) -> Iterator[Cluster]:
    """A cluster of two hosts, each with one CPU for Ray."""
    subprocess.run([sys.executable, "examples/download.py", "digits"], cwd=ROOT, check=True)
    assert launcher.ray("up", "-y", str(launcher.file)).returncode == 0
    wait_until(lambda: launcher.num_nodes() == 2, "two nodes", timeout_s=120)
    return launcher


@pytest.fixture(scope="module")
def submitted(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """The digits example, all stages, by `ray submit`."""
    return cluster.submit("run", SPEC, *SETS, timeout_s=900)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    lines = [line for line in plain.splitlines() if line.startswith("raydc ")]
    return lines[-1] if lines else ""


def _events(hosts: Hosts, run: str) -> list[dict[str, Any]]:
    # Also while the run begins, without a log yet, or while a line is being written.
    return list(events.read(Storage(str(hosts.shared / "runs" / "runs" / run)), "events"))


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def _status_on_head(hosts: Hosts, token: str) -> int:
    """What the jobs API answers on the head, by HTTP status."""
    ask = (
        "import http.client, sys; connection = http.client.HTTPConnection('127.0.0.1', 8265);"
        "headers = {'Authorization': 'Bearer ' + sys.argv[1]} if sys.argv[1] else {};"
        "connection.request('GET', '/api/jobs/', headers=headers); "
        "print(connection.getresponse().status)"
    )
    return int(hosts.ssh(1, f'python -c "{ask}" "{token}"').stdout)


def test_cluster_refuses_requests_without_token(cluster: Cluster, hosts: Hosts) -> None:
    assert _listens(hosts.address(1), 6379)
    assert not _listens(hosts.address(1), 8265)
    assert _status_on_head(hosts, "") == 401
    assert _status_on_head(hosts, "wrong") == 403
    assert _status_on_head(hosts, "$(cat ~/.ray/auth_token)") == 200
    for host in (1, 2):
        assert hosts.ssh(host, "stat -c %a ~/.ray/auth_token").stdout.strip() == "600"


def test_submit_runs_all_stages_with_a_worker_on_each_host(
    submitted: subprocess.CompletedProcess[str], hosts: Hosts
) -> None:
    assert submitted.returncode == 0
    assert _last_line(submitted).endswith("exit code 0")
    (attempt,) = [event for event in _events(hosts, "digits") if event["kind"] == "attempt_started"]
    assert sorted(attempt["hosts"]) == [hosts.name(1), hosts.name(2)]


@pytest.mark.usefixtures("submitted")
def test_endpoint_answers_another_host(hosts: Hosts) -> None:
    (folder,) = (hosts.shared / "runs" / "data").glob("digits-*")
    rows = json.loads((folder / "golden_rows.json").read_text())
    data = Storage(str(folder))
    _, truth = open_rows(data, "test").gather(np.arange(len(rows)))
    classes = prepared.load(data).features.signature.classes
    request = urllib.request.Request(
        f"http://{hosts.address(1)}:8000/predict",
        json.dumps({"rows": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    said = [prediction["label"] for prediction in answer["predictions"]]
    assert len(said) == len(rows) > 0
    assert sum(label == classes[k] for label, k in zip(said, truth, strict=True)) > len(rows) / 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["run", SPEC, "--set", "train.epochs=zero"], 2, marks=pytest.mark.soak),
        (["run", SPEC, *SETS], 5),
        # The submitted run, which all tests of this file share, has ended with 0 as well.
        pytest.param(["validate", SPEC], 0, marks=pytest.mark.soak),
    ],
    ids=["wrong value", "run exists", "valid"],
)
@pytest.mark.usefixtures("submitted")
def test_submit_ends_with_the_exit_code(cluster: Cluster, arguments: list[str], code: int) -> None:
    done = cluster.submit(*arguments)
    assert _last_line(done) == f"raydc {' '.join(arguments)}: exit code {code}"
    assert done.returncode == (1 if code else 0)


@pytest.fixture
def dashboard(cluster: Cluster, hosts: Hosts) -> Iterator[str]:
    """The jobs API of the head at the end of a tunnel, as `ray dashboard` makes one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["ray", "dashboard", str(cluster.file), "--port", str(port)]
    with subprocess.Popen(
        command,
        env=cluster.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as tunnel:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _is_served(url), "a tunnel to the dashboard", timeout_s=60)
            yield url
        finally:
            os.killpg(tunnel.pid, 15)


def _is_served(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.soak
def test_job_submit_trains_from_a_working_folder(
    cluster: Cluster, hosts: Hosts, dashboard: str, tmp_path: Path
) -> None:
    (tmp_path / "spec.yaml").write_text((ROOT / SPEC).read_text())
    submit = [
        "job",
        "submit",
        "--address",
        dashboard,
        "--working-dir",
        str(tmp_path),
        "--",
        "raydc",
    ]
    sets = [
        *SETS,
        "--set",
        "data.source=/root/project/examples/digits/data",
        "--set",
        "name=by-job",
    ]
    sets += [
        "--set",
        "scaling.num_workers=1",
    ]  # The replica of the endpoint has a part of one of the two CPUs.
    done = cluster.ray(*submit, "train", "spec.yaml", *sets, timeout_s=600)
    assert done.returncode == 0
    assert (hosts.shared / "runs" / "runs" / "by-job" / "model" / "MANIFEST.json").is_file()
    refused = cluster.ray(*submit, "train", "spec.yaml", *sets, "--set", "storage=runs")
    assert refused.returncode != 0
    assert "storage: 'runs'" in refused.stdout


# By default a node of one machine is lost: tests/faults/test_nodes.py.
@pytest.mark.soak
def test_host_without_power_costs_no_row(cluster: Cluster, hosts: Hosts) -> None:
    """The other host goes silent in a step; the run continues with one worker and loses no row."""
    spec = yaml.safe_load((ROOT / SPEC).read_text())
    spec |= {"name": "powerless", "storage": STORAGE}
    spec["data"]["source"] = "/root/project/examples/digits/data"
    spec["model"] = {"name": "mlp", "hidden": [32]}
    spec["train"] |= {
        "epochs": None,
        "max_steps": 6000,
        "global_batch_size": 32,
        "lr_scheduler": "constant",
    }
    # One of them to a host: the replica of the endpoint has a part of one.
    spec["scaling"] = {"num_workers": {"min": 1, "max": 2}, "resources_per_worker": {"CPU": 0.8}}
    (hosts.shared / "powerless.yaml").write_text(yaml.safe_dump(spec))
    folder = hosts.shared / "runs" / "runs" / "powerless"

    def has_steps() -> bool:
        known = [event for event in _events(hosts, "powerless") if event["kind"] == "checkpoint"]
        return bool(known) and known[-1]["step"] > 100

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(cluster.submit, "train", "/shared/powerless.yaml", timeout_s=600)
        wait_until(lambda: has_steps() or ended.done(), "a run under way", timeout_s=240)
        hosts.power(2, on=False)
        try:
            done = ended.result()
        finally:
            hosts.power(2, on=True)
    assert done.returncode == 0
    known = _events(hosts, "powerless")
    assert [event["world_size"] for event in known if event["kind"] == "attempt_started"] == [2, 1]
    run = Storage(str(folder))
    resolved = specs.from_dict(yaml.safe_load(run.read_bytes("resolved.yaml")))
    (data,) = (hosts.shared / "runs" / "data").glob("powerless-*")
    check_ledger(run, resolved, prepared.load(Storage(str(data))).num_rows["train"])


def test_ray_down_stops_the_cluster(cluster: Cluster, hosts: Hosts) -> None:
    assert cluster.ray("down", "-y", str(cluster.file)).returncode == 0
    for port in (6379, 8000, 8265):
        wait_until(
            lambda port=port: not _listens(hosts.address(1), port),
            f"port {port} free",
            timeout_s=60,
        )
