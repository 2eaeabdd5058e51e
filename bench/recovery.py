"""Seconds from a failure to the next useful step: raydc against the same script on plain Ray Train.

    python bench/recovery.py [--repeats 10] [--failures worker host driver]
                             [--contenders raydc ray-train]

A useful step is one that had not been done when the failure came. Each measurement is a new run of
two workers that train the same network (a step takes about 50 ms) and write a checkpoint
every ten steps; it is disturbed after it has been under way for some seconds:

- worker: kill -9 of one of the two; it is replaced. Each rank in turn.
- host: kill -9 of everything on one of two nodes of a cluster (`ray.cluster_utils.Cluster`); one
  worker continues.
- driver: kill -9 of the driver, which is started again at once with the same command (raydc: and
  `--resume`).

Ray Train has its defaults, except that failures are allowed at all. Prints median and worst,
writes one JSON file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raydc.data import prepared

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = ("raydc", "ray-train")
FAILURES = ("worker", "host", "driver")
LABELS = {"raydc": "raydc", "ray-train": "Ray Train"}
NUM_ROWS, BATCH, CHECKPOINT_EVERY, MAX_STEPS = 32_000, 32, 10, 20_000
STEP_S = 0.05
# Long enough for a first checkpoint, and for raydc's processes to stand by.
UNDISTURBED_S = 25.0
TIMEOUT_S = 300.0
END_TIMEOUT_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--failures", nargs="+", choices=FAILURES, default=list(FAILURES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--drive", nargs=3, metavar=("CONTENDER", "FAILURE", "WORK"), help=argparse.SUPPRESS
    )
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        contender, failure, work = options.drive
        drive = drive_raydc if contender == "raydc" else drive_ray_train
        drive(failure, Path(work), options.resume)
        return
    results: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        for failure in options.failures:
            for contender in options.contenders:
                with tempfile.TemporaryDirectory(
                    prefix="raydc-bench-", ignore_cleanup_errors=True
                ) as work:
                    result = measure(contender, failure, repeat, Path(work))
                results.append({"contender": contender, "failure": failure, **result})
                print(f"{contender:10} {failure:7} {result}", flush=True)
    show(results)


def show(results: list[dict[str, Any]]) -> None:
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        cells.setdefault((result["failure"], result["contender"]), []).append(result)
    print(
        f"\n{'failure':8} {'':10} {'median s':>9} {'worst s':>9} {'recomputed steps':>18} {'n':>3}"
    )
    table = []
    for (failure, contender), cell in cells.items():
        seconds = [result["seconds"] for result in cell]
        steps = [result["recomputed_steps"] for result in cell]
        row = {
            "failure": failure,
            "contender": contender,
            "median_s": round(statistics.median(seconds), 2),
            "worst_s": round(max(seconds), 2),
            "recomputed_steps": sorted(steps),
            "repeats": len(cell),
        }
        table.append(row)
        span = f"{min(steps)} to {max(steps)}"
        print(
            f"{failure:8} {LABELS[contender]:10} {row['median_s']:9.1f} {row['worst_s']:9.1f} "
            f"{span:>18} {len(cell):3}"
        )
    target = ROOT / "bench" / "results" / "recovery.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(
        json.dumps({"table": table, "measurements": results, "cpus": os.cpu_count()}, indent=1)
        + "\n"
    )
    print(f"\nwritten to {target.relative_to(ROOT)}")


# One measurement ----------------------------------------------------------------------------------


def measure(contender: str, failure: str, repeat: int, work: Path) -> dict[str, Any]:
    """Starts a run, disturbs it, and waits for the next useful step."""
    command = [sys.executable, __file__, "--drive", contender, failure, str(work)]
    log = (work / "driver.log").open("a")
    # Ray's files go there too: nothing of a killed driver is left to the next.
    environment = {**os.environ, "RAY_TMPDIR": str(work)}
    driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait(lambda: has_run(work), driver, work)
        killed_s = time.time()
        num_starts = sum(line["kind"] == "start" for line in lines_of(work))
        if failure == "driver":
            driver.kill()
            driver.wait()
            driver = subprocess.Popen(
                [*command, "--resume"], stdout=log, stderr=log, env=environment
            )
        else:
            disturb(failure, repeat, work)
        wait(lambda: next_useful(work, num_starts) is not None, driver, work)
        found = next_useful(work, num_starts) or {}
        return {
            "seconds": round(found["time_s"] - killed_s, 3),
            "first_step_s": round(found["first_s"] - killed_s, 3),
            "recomputed_steps": found["recomputed_steps"],
        }
    finally:
        driver.kill()
        driver.wait()
        end_processes_of(work)


def wait(condition: Any, driver: subprocess.Popen[bytes], work: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            sys.exit((work / "driver.log").read_text()[-4000:])
        time.sleep(0.05)


def lines_of(work: Path) -> list[dict[str, Any]]:
    """Reads the `start` and `step` records of a run, in the same form for all contenders."""
    path = work / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # Half a line.
            continue
    return [record for record in records if record["kind"] in ("start", "step")]


def has_run(work: Path) -> bool:
    """Whether two workers have been at it for a while, beyond a checkpoint."""
    steps = [line for line in lines_of(work) if line["kind"] == "step"]
    return len(steps) > 2 * CHECKPOINT_EVERY and time.time() - steps[0]["time_s"] > UNDISTURBED_S


def next_useful(work: Path, num_starts: int) -> dict[str, Any] | None:
    """The first step after the restart that had not been done before it."""
    lines = lines_of(work)
    starts = [number for number, line in enumerate(lines) if line["kind"] == "start"]
    if len(starts) <= num_starts:
        return None
    restart = starts[num_starts]
    done = max(line["step"] for line in lines[:restart] if line["kind"] == "step")
    after = [line for line in lines[restart:] if line["kind"] == "step"]
    useful = next((line for line in after if line["step"] > done), None)
    if useful is None:
        return None
    return {
        "time_s": useful["time_s"],
        "first_s": after[0]["time_s"],
        "recomputed_steps": done - lines[restart]["step"],
    }


def disturb(failure: str, repeat: int, work: Path) -> None:
    """kill -9 of a worker, or of a node with all that it has started."""
    if failure == "worker":
        os.kill(pids_of_workers(work)[repeat % 2], signal.SIGKILL)
        return
    # Alternates between the node of rank 0 and the other one from repeat to repeat.
    raylet = json.loads((work / "raylets.json").read_text())[repeat % 2]
    victims = [raylet, *children_of(raylet)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def pids_of_workers(work: Path) -> list[int]:
    if (pids := work / "pids").exists():
        return [int((pids / str(rank)).read_text()) for rank in range(2)]
    records = [
        json.loads(line) for line in (work / "run" / "events.jsonl").read_text().splitlines()
    ]
    return [record for record in records if record["kind"] == "attempt_started"][-1]["pids"]


def end_processes_of(work: Path) -> None:
    """Ends the processes of a measurement: those that name its folder, and their children."""
    victims = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # It may just have ended.
            if str(work).encode() in path.read_bytes():
                victims.add(int(path.parent.name))
    victims |= {child for pid in victims for child in children_of(pid)}
    for pid in victims:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    # Until the last of them is gone, files may appear.
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(is_alive(pid) for pid in victims) and time.monotonic() < deadline:
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # It has just ended.
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


# Drivers ------------------------------------------------------------------------------------------


def make_cluster(failure: str, work: Path) -> str | None:
    """A head without CPUs and two nodes of one; None where the driver has a Ray of its own."""
    if failure != "host":
        return None
    from ray.cluster_utils import Cluster

    from raydc import engine

    engine.choose_auth(local=True)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    (work / "raylets.json").write_text(json.dumps(raylets))
    return str(cluster.address)


def drive_raydc(failure: str, work: Path, resume: bool) -> None:
    """The run as raydc does it."""
    import numpy as np

    from raydc import engine, train
    from raydc import spec as specs
    from raydc.data import shards
    from raydc.features import Features, Numeric, Signature
    from raydc.storage import Storage

    folder = Storage(str(work / "data"))
    if not resume:
        signature = Signature("vector", (16,), "float32", (), (), "regression")
        features = Features(signature, "y", {f"x{n}": Numeric(0.0, 0.0, 1.0) for n in range(16)})
        random = np.random.default_rng(0)
        x = random.normal(size=(NUM_ROWS, 16)).astype(np.float32)
        splits = {
            "train": (x, x[:, 0].copy()),
            "validation": (x[:64], x[:64, 0].copy()),
            "test": (x[:64], x[:64, 0]),
        }
        shards.write_data_set(folder, features, splits)
    value = {
        "name": "bench",
        "storage": str(work),
        "data": {"source": "rows.csv", "task": "regression"},
        "model": {"builder": "recovery:paced"},
        "train": {"max_steps": MAX_STEPS, "global_batch_size": BATCH, "log_every_steps": 1},
        "scaling": {"num_workers": {"min": 1, "max": 2}},
        "fault_tolerance": {"max_failures": -1},
        "checkpoint": {"every_steps": CHECKPOINT_EVERY},
    }
    os.chdir(Path(__file__).parent)
    engine.connect(make_cluster(failure, work), num_cpus=None if failure == "host" else 2)
    spec = specs.resolve(specs.from_dict(value))
    train.run(spec, prepared.load(folder), Storage(str(work / "run")), print, resume=resume)


def paced(_signature: Any) -> Any:
    """The network of all contenders."""
    import torch
    from torch import nn

    class Paced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                time.sleep(STEP_S)
            output: torch.Tensor = self.layers(x)
            return output

    return Paced()


def drive_ray_train(failure: str, work: Path, _resume: bool) -> None:
    """The run as the documentation of Ray Train shows it."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    address = make_cluster(failure, work)
    if address:
        ray.init(address=address)
    else:
        ray.init(num_cpus=2)
    (work / "pids").mkdir(exist_ok=True)
    trainer = TorchTrainer(
        ray_train_loop,
        train_loop_config={"work": str(work)},
        scaling_config=ScalingConfig(num_workers=(1, 2) if failure == "host" else 2),
        run_config=RunConfig(
            name="bench",
            storage_path=str(work / "ray"),
            failure_config=FailureConfig(max_failures=-1),
        ),
    )
    trainer.fit()


def ray_train_loop(config: dict[str, Any]) -> None:
    """Runs in each worker."""
    import ray.train
    import ray.train.torch
    import torch

    work, context = Path(config["work"]), ray.train.get_context()
    rank = context.get_world_rank()
    (work / "pids" / str(rank)).write_text(str(os.getpid()))
    network = ray.train.torch.prepare_model(paced(None))
    bare = getattr(network, "module", network)  # A single worker has no wrapper.
    optimizer = torch.optim.AdamW(network.parameters())
    x = torch.randn(NUM_ROWS, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.utils.data.TensorDataset(x, x[:, :1])
    loader = torch.utils.data.DataLoader(
        rows, batch_size=BATCH // context.get_world_size(), shuffle=True
    )
    loader = ray.train.torch.prepare_data_loader(loader)
    step = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        bare.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = work / "run" / "metrics.jsonl"
    log.parent.mkdir(exist_ok=True)

    def write(kind: str) -> None:
        if rank == 0:
            with log.open("a") as file:
                file.write(json.dumps({"time_s": time.time(), "kind": kind, "step": step}) + "\n")

    write("start")
    while step < MAX_STEPS:
        for batch, target in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(batch), target).backward()
            optimizer.step()
            step += 1
            write("step")
            if step % CHECKPOINT_EVERY == 0:
                with tempfile.TemporaryDirectory() as folder:
                    if rank == 0:
                        state = {
                            "network": bare.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "step": step,
                        }
                        torch.save(state, Path(folder) / "state.pt")
                    saved = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
                    ray.train.report({"step": step}, checkpoint=saved)


if __name__ == "__main__":
    main()
