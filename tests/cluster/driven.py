"""A Ray on isolated hosts, and a run on it whose driver is a process of host 1."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isolated import ROOT, Hosts, wait_until
from training import check_ledger, training_spec, weights_hash, write_pictures

from raydc import spec as specs
from raydc.data import prepared
from raydc.loop import worker
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.phase_timer import read_account
from raydc.tracking.time_account import format_lines

WAIT_S = 180.0
NUM_ROWS = {"train": 6400, "validation": 60, "test": 40}
# Where the hosts find raydc and the builders of the tests, of which they see nothing else.
PROJECT = "/shared/project"
_START = f"cd {PROJECT} && PYTHONPATH={PROJECT} ray start --disable-usage-stats"
_LIMITS = "--object-store-memory=100000000"


def bring_project(hosts: Hosts) -> None:
    """Copies raydc, and the builder of the tests, to where the hosts find them."""
    project = hosts.shared / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "raydc", project / "raydc", ignore=ignored, dirs_exist_ok=True)
    shutil.copy(ROOT / "tests" / "faults" / "paced.py", project)


class RayOnHosts:
    """A head without a CPU on host 1, with the driver, and a CPU on each other host."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.address = f"{hosts.address(1)}:6379"
        bring_project(hosts)

    def start(self) -> None:
        head = f"--head --port=6379 --num-cpus=0 --include-dashboard=false {_LIMITS}"
        self._start(1, head)
        others = range(2, self.hosts.number + 1)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.join, others))

    def join(self, host: int) -> None:
        self._start(host, f"--address={self.address} --num-cpus=1 {_LIMITS}")

    def _start(self, host: int, options: str) -> None:
        done = self.hosts.ssh(host, f"{_START} {options}")
        assert done.returncode == 0, done.stdout + done.stderr

    def renew(self, host: int) -> None:
        """Gives a host without its raylet back to Ray, as after a restart."""
        with contextlib.suppress(RuntimeError):  # It may have no power already.
            self.hosts.power(host, on=False)
        self.hosts.power(host, on=True)
        self.join(host)

    def stop(self) -> None:
        """Restarts the hosts, which leaves nothing of Ray on them."""
        for host in range(1, self.hosts.number + 1):
            with contextlib.suppress(RuntimeError):
                self.hosts.power(host, on=False)
            self.hosts.power(host, on=True)


def find_processes(hosts: Hosts, host: int, text: str, parent: int | None = None) -> list[int]:
    """Processes of a host by a text in their command lines, and by their parent if it is given."""
    # The brackets keep the pattern from finding the shell that searches.
    of = "" if parent is None else f"-P {parent} "
    listed = hosts.ssh(host, f"pgrep {of}-f '[{text[0]}]{text[1:]}'")
    return [int(pid) for pid in listed.stdout.split()]


def kill(hosts: Hosts, host: int, pid: int) -> None:
    assert hosts.ssh(host, f"kill -9 {pid}").returncode == 0


class DrivenRun:
    """A run of slow steps, until the file `hurry` is there. Leaving it lets the run end quickly.

    Args:
        hosts: Hosts with a Ray.
        address: Address of that Ray.
        name: Name of the run, and of a folder in /shared.
        sections: Sections of the spec.
    """

    def __init__(self, hosts: Hosts, address: str, name: str, **sections: Any) -> None:
        self.hosts, self.name = hosts, name
        self.folder = hosts.shared / name
        self.folder.mkdir()
        self.spec = paced_spec(f"/shared/{name}", f"/shared/{name}/hurry", **sections)
        self.run = Storage(str(self.folder / "run"))
        self.run.write_json("resolved.json", specs.to_dict(self.spec))
        self.data = prepared.load(write_pictures(Storage(str(self.folder / "data")), 0, NUM_ROWS))
        self.run_uri = f"/shared/{name}/run"
        parts = [self.run_uri, f"/shared/{name}/data", address, "''"]
        self._command = f"cd {PROJECT} && PYTHONPATH={PROJECT} RAYDC_NO_COLOR=1 "
        self._command += f"python -m raydc.chaos.driver {' '.join(parts)}"
        self._command += f" > /shared/{name}/driver.log 2>&1"
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> DrivenRun:
        self._ended = self._pool.submit(self.hosts.ssh, 1, self._command, 3 * WAIT_S)
        return self

    def __exit__(self, *error: object) -> None:
        (self.folder / "hurry").touch()
        self._pool.shutdown(wait=True)

    def log(self) -> str:
        return (self.folder / "driver.log").read_text()

    def wait_for(self, condition: Any, what: str) -> Any:
        """Waits for a condition while the run goes on."""

        def holds() -> Any:
            assert not self._ended.done(), f"ended before: {what}\n{self.log()}"
            return condition()

        return wait_until(holds, what, WAIT_S)

    def wait_for_progress(self, what: str) -> None:
        """Waits until the driver shows a step that it has not shown yet."""
        shown = len(self.log())
        self.wait_for(lambda: "train     step " in self.log()[shown:], f"progress: {what}")

    def let_pass(self, seconds: float) -> None:
        """Lets time pass while the run goes on."""
        over_s = time.monotonic() + seconds
        self.wait_for(lambda: time.monotonic() > over_s, f"{seconds:.0f} s")

    def finish(self) -> int:
        """Lets the run hurry to its end; returns the exit code of the driver."""
        (self.folder / "hurry").touch()
        done: subprocess.CompletedProcess[str] = self._ended.result()
        return done.returncode

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in events.read(self.run, "events") if record["kind"] == kind]

    def attempt(self, number: int) -> dict[str, Any]:
        """Waits until an attempt, from 1, has begun and has written a checkpoint."""

        def found() -> dict[str, Any] | None:
            attempts = self.events("attempt_started")
            if len(attempts) < number:
                return None
            first = attempts[number - 1]["time_s"]
            has_saved = any(record["time_s"] > first for record in self.events("checkpoint"))
            return attempts[number - 1] if has_saved else None

        attempt: dict[str, Any] = self.wait_for(found, f"a checkpoint of attempt {number}")
        return attempt

    def was_replaced(self, host: int) -> bool:
        """Whether a worker of a host has ended because a newer attempt had begun."""
        logs = (self.hosts.folder / f"h{host}" / "tmp" / "ray").glob("session_2*/logs/**/*")
        said = f"a newer attempt of the run at {self.run_uri} has started"
        return any(said in log.read_text(errors="replace") for log in logs if log.is_file())

    def last_step(self) -> int:
        """The newest step that any process has recorded."""
        records = events.read(self.run, "metrics")
        return max((one["step"] for one in records if one["kind"] == "step"), default=0)

    def host_of(self, attempt: dict[str, Any]) -> int:
        """The host of rank 0."""
        names = [self.hosts.name(host) for host in range(1, self.hosts.number + 1)]
        return names.index(attempt["hosts"][0]) + 1

    def describe(self) -> str:
        """Attempts, checkpoints and the time account, for whoever reads the output of the test."""
        sizes = [record["world_size"] for record in self.events("attempt_started")]
        num_written = len(self.events("checkpoint"))
        (first, *_) = format_lines(read_account(self.run))
        return f"attempts of {sizes} workers, {num_written} checkpoints, each once; {first}"

    def check(self, undisturbed: str) -> None:
        """Asserts that one process wrote at a time, and that nothing was lost."""
        check_ledger(self.run, self.spec, NUM_ROWS["train"])
        check_one_writer(self.run)
        account = read_account(self.run)
        moments = {record["kind"]: record["time_s"] for record in events.read(self.run, "events")}
        wall_s = moments["driver_ended"] - self.events("run_started")[0]["time_s"]
        assert abs(account.wall_s - wall_s) < 0.1
        last = self.events("run_finished")[-1]["step"]
        assert weights_hash(self.run, last) == undisturbed


def check_one_writer(run: Storage) -> None:
    """Asserts that no step is recorded twice in one attempt, and no checkpoint twice at all."""
    before = 0
    for record in events.read(run, "metrics"):
        if record["kind"] == "step":
            assert record["step"] == before + 1, f"after step {before}: {record}"
        if record["kind"] in ("start", "step"):
            before = record["step"]
    written = [
        record["step"] for record in events.read(run, "events") if record["kind"] == "checkpoint"
    ]
    assert sorted(set(written)) == sorted(written)


def paced_spec(storage: str, hurry: str, **sections: Any) -> ResolvedSpec:
    """A run of 1,200 steps of two shards of a tenth of a second, until `hurry` is there."""
    merged: dict[str, Any] = {
        "model": {"builder": "paced:network", "arguments": {"hurry": hurry}},
        "train": {"epochs": 6, "logical_shards": 2},
        "checkpoint": {"every_steps": 20},
        **sections,
    }
    return training_spec(storage, **merged)


def train_undisturbed(folder: Path) -> str:
    """The hash of the final weights of the run, when nothing happens to it."""
    data = write_pictures(Storage(str(folder / "data")), 0, NUM_ROWS)
    # A file that exists.
    spec = paced_spec(str(folder), str(folder))
    run = Storage(str(folder / "run"))
    return weights_hash(run, worker.fit(spec, run, data).step)
